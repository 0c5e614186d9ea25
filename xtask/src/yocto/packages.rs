//! Which file of the overlay goes into which package, read from the recipes; and whether that is whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::layer;
use crate::shell::{Failure, workspace};

const PACKAGES: &str = "recipes-pitstop/pitstop/pitstop-packages.inc";
/// Files that no package carries, because they lie on other partitions: folder of the overlay, recipe that takes them from it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("boot/", "recipes-pitstop/pitstop-boot/pitstop-boot_VERSION.bb"),
    ("etc/", "recipes-pitstop/pitstop-data/pitstop-data_VERSION.bb"),
];
/// Variables of a file list, as qemux86-64 has them.
const VARIABLES: &[(&str, &str)] = &[
    ("${bindir}", "usr/bin"),
    ("${libexecdir}", "usr/libexec"),
    ("${datadir}", "usr/share"),
    ("${nonarch_libdir}", "usr/lib"),
    ("${systemd_system_unitdir}", "usr/lib/systemd/system"),
    ("${sysconfdir}", "etc"),
    ("${localstatedir}", "var"),
];
/// What packages hold that does not come from the overlay: programs, mount points, the XML of the interfaces, drop-ins for oe-core and U-Boot.
const NOT_OVERLAY: &[&str] = &[
    "usr/bin/",
    "usr/libexec/",
    "usr/share/dbus-1/interfaces",
    "var/",
    "etc/pitstop",
    "data",
    "usr/lib/systemd/system/var-lib-pitstop.mount.d",
    "usr/lib/systemd/system/pitstop-self-update.service.d",
];

/// What recipe pitstop-trust installs.
const TRUST: [&str; 4] = [
    "usr/lib/pitstop/keyring.pem",
    "usr/lib/pitstop/testers.pem",
    "usr/lib/pitstop/uptane/director/root.json",
    "usr/lib/pitstop/uptane/image/root.json",
];

/// Assignments of a recipe: variable (with its override) to value, continued lines joined.
pub struct Recipe(BTreeMap<String, String>);

impl Recipe {
    pub fn parse(text: &str) -> Self {
        let mut found = BTreeMap::new();
        for line in text.replace("\\\n", " ").lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            let name = name.trim_end_matches([' ', '+', '?', ':']);
            if !line.starts_with('#') && !name.contains(' ') {
                let words: Vec<&str> = value.trim().trim_matches('"').split_whitespace().collect();
                found.insert(name.to_owned(), words.join(" "));
            }
        }
        Self(found)
    }

    /// Packages with what a variable says for each: `FILES:pitstopctl` under `pitstopctl`.
    fn of_packages<'r>(&'r self, variable: &'r str) -> impl Iterator<Item = (&'r str, &'r str)> {
        self.0
            .iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(variable)?.strip_prefix(':')?, value.as_str())))
    }

    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// All that is wrong with the packages; empty when nothing is.
pub fn differences(version: &str) -> Result<Vec<String>, Failure> {
    let recipe = Recipe::parse(&read(&layer().join(PACKAGES))?);
    let overlay_root = workspace().join("rootfs-overlay");
    let mut overlay = Vec::new();
    walk(&overlay_root, &overlay_root, &mut overlay)?;
    let mut wrong = files(&recipe, &overlay, version)?;
    wrong.extend(units(&recipe, &overlay)?);
    wrong.extend(users(&recipe)?);
    wrong.extend(bus_policies(&overlay)?);
    Ok(wrong)
}

/// Each file in exactly one package, and no package with a file that is not there.
fn files(recipe: &Recipe, overlay: &[String], version: &str) -> Result<Vec<String>, Failure> {
    let mut wrong = Vec::new();
    let mut listed: Vec<(&str, String)> = Vec::new();
    for (package, files) in recipe.of_packages("FILES") {
        listed.extend(files.split(' ').map(|file| (package, expand(file))));
    }
    for file in overlay {
        let Some((_, other)) = ELSEWHERE.iter().find(|(folder, _)| file.starts_with(folder)) else {
            let owners: Vec<&str> = listed.iter().filter(|(_, entry)| holds(entry, file)).map(|(p, _)| *p).collect();
            if owners.len() != 1 {
                wrong.push(format!("rootfs-overlay/{file} is in {} packages: {}", owners.len(), owners.join(" ")));
            }
            continue;
        };
        let other = other.replace("VERSION", version);
        if !read(&layer().join(&other))?.contains(&format!("rootfs-overlay/{file}")) {
            wrong.push(format!("rootfs-overlay/{file} is not installed by {other}"));
        }
    }
    for (package, entry) in &listed {
        let ours = NOT_OVERLAY.iter().any(|prefix| entry.starts_with(prefix)) || of_qemu(entry);
        if !ours && !overlay.iter().any(|file| holds(entry, file)) {
            wrong.push(format!("{package} lists {entry}, which is not in the overlay"));
        }
    }
    Ok(wrong)
}

/// Files of the packages against those of the image that `cargo xtask image` left behind, both ways; empty when there is no such image.
///
/// What only the other image has of its emulated surroundings (`qemu/overlay`) is Debian's; see the layer's documentation.
pub fn against_image(tree: &Path) -> Result<Vec<String>, Failure> {
    if !tree.is_dir() {
        return Ok(Vec::new());
    }
    let recipe = Recipe::parse(&read(&layer().join(PACKAGES))?);
    let overlay_root = workspace().join("rootfs-overlay");
    let (mut packaged, mut image) = (Vec::new(), Vec::new());
    walk(&overlay_root, &overlay_root, &mut packaged)?;
    packaged.retain(|file| file.starts_with("usr/"));
    let programs = recipe.of_packages("FILES").flat_map(|(_, files)| files.split(' ')).map(expand);
    packaged.extend(programs.filter(|f| f.starts_with("usr/libexec/") || f == "usr/bin/pitstopctl"));
    packaged.extend(TRUST.map(str::to_owned));
    walk(tree, &tree.join("usr"), &mut image)?;
    let missing = packaged.iter().filter(|f| tree.join(f).symlink_metadata().is_err());
    let missing: Vec<String> = missing.map(|f| format!("{f} is packaged and not in the image")).collect();
    let ours = image.iter().filter(|file| file.contains("pitstop"));
    let surplus = ours.filter(|file| !packaged.contains(file) && !of_qemu(file));
    Ok(missing.into_iter().chain(surplus.map(|f| format!("{f} is in the image and in no package"))).collect())
}

/// Whether a file belongs to the emulated surroundings of `qemu/`.
fn of_qemu(file: &str) -> bool {
    workspace().join("qemu/overlay").join(file).exists()
}

/// Each unit that is to be enabled is registered, each registered one is there, and each service has its name of the program.
fn units(recipe: &Recipe, overlay: &[String]) -> Result<Vec<String>, Failure> {
    let folder = "usr/lib/systemd/system/";
    let mut wrong = Vec::new();
    let registered: Vec<&str> = recipe.of_packages("SYSTEMD_SERVICE").flat_map(|(_, units)| units.split(' ')).collect();
    for unit in overlay.iter().filter_map(|file| file.strip_prefix(folder)).filter(|unit| !unit.contains('/')) {
        let text = read(&workspace().join("rootfs-overlay").join(folder).join(unit))?;
        if text.contains("[Install]") != registered.contains(&unit) {
            wrong.push(format!("{unit}: [Install] section and SYSTEMD_SERVICE do not agree"));
        }
        if let Some(service) = unit.strip_suffix(".service").filter(|name| name.starts_with("pitstop-")) {
            let program = format!("${{libexecdir}}/pitstop/{service}");
            let package = format!("FILES:{service}");
            if !recipe.get(&package).split(' ').any(|file| file == program) {
                wrong.push(format!("{package} lacks {program}"));
            }
            if !recipe.get("SYSTEMD_PACKAGES").split(' ').any(|p| p == service) {
                wrong.push(format!("SYSTEMD_PACKAGES lacks {service}"));
            }
        }
    }
    for unit in registered {
        let file = format!("{folder}{unit}");
        if !overlay.contains(&file) && !of_qemu(&file) {
            wrong.push(format!("SYSTEMD_SERVICE names {unit}, which is not in the overlay"));
        }
    }
    Ok(wrong)
}

/// The recipe makes the users, groups and memberships of the overlay's sysusers file, with the same numbers.
fn users(recipe: &Recipe) -> Result<Vec<String>, Failure> {
    let declared = read(&workspace().join("rootfs-overlay/usr/lib/sysusers.d/pitstop.conf"))?;
    Ok(users_against(recipe, &declared))
}

fn users_against(recipe: &Recipe, declared: &str) -> Vec<String> {
    let mut wanted: Vec<String> = Vec::new();
    for line in declared.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["u", user, id, ..] => wanted.push(format!("user {user} {id}")),
            ["g", group, id, ..] => wanted.push(format!("group {group} {id}")),
            ["m", user, group] => wanted.push(format!("{user} in {group}")),
            _ => wanted.push(format!("unknown line {line:?}")),
        }
    }
    let mut made: Vec<String> = Vec::new();
    let after = |words: &[&str], option: &str| {
        let at = words.iter().position(|word| *word == option)?;
        words.get(at + 1).map(|word| (*word).to_owned())
    };
    // As in sysusers.d: without a number, any.
    let number = |words: &[&str], option: &str| after(words, option).unwrap_or_else(|| "-".to_owned());
    for one in recipe.get("GROUPADD_PARAM:${PN}").split("; ") {
        let words: Vec<&str> = one.split(' ').collect();
        made.extend(words.last().map(|group| format!("group {group} {}", number(&words, "--gid"))));
    }
    for one in recipe.get("USERADD_PARAM:${PN}").split("; ") {
        let words: Vec<&str> = one.split(' ').collect();
        let user = words.last().copied().unwrap_or_default();
        made.push(format!("user {user} {}", number(&words, "--uid")));
        made.extend(after(&words, "--groups").map(|group| format!("{user} in {group}")));
    }
    let missing = wanted.iter().filter(|w| !made.contains(w)).map(|w| format!("the recipe does not make {w}"));
    let surplus =
        made.iter().filter(|m| !wanted.contains(m)).map(|m| format!("the recipe makes {m}, sysusers.d does not"));
    missing.chain(surplus).collect()
}

/// Whoever a bus policy or a unit names is made by the overlay's sysusers file.
fn bus_policies(overlay: &[String]) -> Result<Vec<String>, Failure> {
    let declared = read(&workspace().join("rootfs-overlay/usr/lib/sysusers.d/pitstop.conf"))?;
    let known = |name: &str| name == "root" || declared.lines().any(|l| l.split_whitespace().nth(1) == Some(name));
    let mut wrong = Vec::new();
    for file in overlay {
        let text = read(&workspace().join("rootfs-overlay").join(file))?;
        let marks: &[(&str, char)] = match file.rsplit_once('.') {
            Some((_, "conf")) if file.contains("/dbus-1/") => &[("policy user=\"", '"'), ("policy group=\"", '"')],
            Some((_, "service")) => &[("\nUser=", '\n'), ("\nGroup=", '\n')],
            _ => continue,
        };
        for (mark, end) in marks {
            let named = text.split(mark).skip(1).filter_map(|rest| rest.split(*end).next());
            wrong.extend(
                named.filter(|name| !known(name)).map(|name| format!("{file} names {name}, whom nobody makes")),
            );
        }
    }
    Ok(wrong)
}

fn expand(entry: &str) -> String {
    let mut entry = entry.to_owned();
    for (variable, path) in VARIABLES {
        entry = entry.replace(variable, path);
    }
    entry.trim_start_matches('/').to_owned()
}

/// An entry of FILES is a file or a folder with all that is in it.
fn holds(entry: &str, file: &str) -> bool {
    file.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<(), Failure> {
    let entries = fs::read_dir(folder).map_err(|e| Failure::new(format!("{}: {e}", folder.display())))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            walk(root, &path, files)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            files.push(name.display().to_string());
        }
    }
    files.sort();
    Ok(())
}

pub fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_overlay_is_in_one_package_with_its_unit_and_user() {
        let wrong = differences(env!("CARGO_PKG_VERSION")).unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_user_with_another_number_is_told() {
        let recipe = Recipe::parse(
            "GROUPADD_PARAM:${PN} = \"--system --gid 7 a; --system t\"\nUSERADD_PARAM:${PN} = \"--system --uid 8 --groups t b; --system c\"\n",
        );
        let wrong = |declared: &str| users_against(&recipe, declared);
        assert!(wrong("g a 7 -\ng t -\nu b 8 x\nu c -\nm b t\n").is_empty());
        assert_eq!(wrong("g a 7 -\ng t -\nu b 9 x\nu c -\nm b t\n").len(), 2);
    }

    #[test]
    fn a_file_in_no_package_in_two_or_in_none_of_the_overlay_is_told() {
        let recipe = Recipe::parse(
            "FILES:a += \"\\\n    ${datadir}/x \\\n    ${datadir}/y/z \\\n\"\nFILES:b = \"${datadir}/y ${datadir}/gone\"\n",
        );
        let overlay = ["usr/share/x", "usr/share/y/z", "usr/share/w"].map(str::to_owned);
        let wrong = files(&recipe, &overlay, "0").unwrap().join("\n");
        assert!(wrong.contains("usr/share/y/z is in 2 packages: a b"), "{wrong}");
        assert!(wrong.contains("usr/share/w is in 0 packages"), "{wrong}");
        assert!(wrong.contains("b lists usr/share/gone") && !wrong.contains("share/x"), "{wrong}");
    }
}
