//! The variants an integrator can ask for: each is configured, parsed, and its graph and variables are looked at.

use std::fs;
use std::path::PathBuf;

use super::trees::{Options, ours};
use crate::shell::{Failure, Outcome, output};

/// The integrator's one line, and what a build without a TPM asks for beside it.
pub const LABORATORY: &str = "require conf/pitstop.inc\nPITSTOP_INSECURE_FILE_KEYS = \"1\"\n";

/// U-Boot, services left out, a slot that can be written; a web page for developers of screens, and the emulator's surroundings.
const BOARD: &str = "\
PITSTOP_BOOTLOADER = \"u-boot\"
PITSTOP_READ_ONLY_ROOT = \"0\"
PACKAGECONFIG:remove:pn-packagegroup-pitstop = \"hmi uds-server\"
PACKAGECONFIG:append:pn-pitstop = \" hmi-web qemu\"
IMAGE_INSTALL:append:pn-pitstop-image = \" pitstop-hmi-web pitstop-qemu\"
";

/// What holds for a variant.
enum Claim {
    /// This recipe is built.
    Builds(&'static str),
    /// This one is not.
    Spares(&'static str),
    /// Variable of a recipe has this word.
    Says(&'static str, &'static str, &'static str),
    /// Variable of a recipe does not have this word.
    Omits(&'static str, &'static str, &'static str),
}
use Claim::{Builds, Omits, Says, Spares};

const GROUP: &str = "packagegroup-pitstop";
const BROUGHT: &str = "RDEPENDS:packagegroup-pitstop";

const OF_BOARD: &[Claim] = &[
    Builds("libubootenv"),
    Builds("u-boot-tools-native"),
    Spares("ovmf"),
    Says(GROUP, BROUGHT, "libubootenv-bin"),
    Says(GROUP, BROUGHT, "pitstop-self-update"),
    Omits(GROUP, BROUGHT, "pitstop-hmi"),
    Omits(GROUP, BROUGHT, "pitstop-uds-server"),
    Omits("pitstop-image", "IMAGE_FEATURES", "read-only-rootfs"),
    Says("pitstop-image", "IMAGE_BOOT_FILES", "pitstop-boot.scr;boot.scr"),
    Says("pitstop", "PACKAGECONFIG_CONFARGS", "pitstop-hmi-web"),
    Says("pitstop", "PACKAGECONFIG_CONFARGS", "pitstop-can-bridge"),
];

const OF_PRODUCT: &[Claim] = &[
    Builds("tpm2-tss"),
    Builds("chrony"),
    Builds("linux-yocto"),
    Says("pitstop", "PACKAGECONFIG", "tpm"),
    Says("pitstop", "PACKAGECONFIG_CONFARGS", "pitstopd/tpm"),
    Says("pitstop", "RDEPENDS:pitstop", "libtss2-tcti-device"),
    Says(GROUP, BROUGHT, "chrony"),
    Says("linux-yocto", "SRC_URI", "file://pitstop.cfg"),
    Says("pitstop-image", "IMAGE_FEATURES", "read-only-rootfs"),
];

pub fn check(options: &Options) -> Outcome {
    let layer = [ours(options)];
    options.configure(&layer, &format!("{LABORATORY}{BOARD}"))?;
    judge(options, "U-Boot, services left out, writable root", OF_BOARD)?;
    pinned(options)?;
    refused(options, &layer)?;
    let Some(mut layers) = options.product_layers() else {
        eprintln!("the variant with a TPM is not checked: give --meta-oe and --meta-security");
        return Ok(());
    };
    layers.extend(layer);
    options.configure(&layers, "require conf/pitstop.inc\n")?;
    options.bitbake("with a TPM: parse", "bitbake -p")?;
    judge(options, "with a TPM", OF_PRODUCT)
}

fn judge(options: &Options, name: &str, claims: &[Claim]) -> Outcome {
    options.bitbake(&format!("{name}: graph"), "bitbake -g pitstop-image pitstop-tcu-bundle")?;
    let wrong = broken(claims, &options.graph()?, |recipe, variable| options.variable(recipe, variable))?;
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(format!("{name}: {}", wrong.join("\n")))) }
}

/// The claims that do not hold, given the recipes of the graph and a way to ask for a recipe's variable.
fn broken(
    claims: &[Claim],
    built: &[String],
    variable_of: impl Fn(&str, &str) -> Result<String, Failure>,
) -> Result<Vec<String>, Failure> {
    let has = |recipe: &str| built.iter().any(|line| line == recipe);
    let mut wrong = Vec::new();
    for claim in claims {
        match claim {
            Builds(recipe) if !has(recipe) => wrong.push(format!("{recipe} is not built")),
            Spares(recipe) if has(recipe) => wrong.push(format!("{recipe} is built")),
            Says(recipe, variable, word) | Omits(recipe, variable, word) => {
                let value = variable_of(recipe, variable)?;
                let there = value.split_whitespace().any(|found| found == *word);
                if there == matches!(claim, Omits(..)) {
                    wrong.push(format!("{variable} of {recipe}, about {word}: {value}"));
                }
            }
            _ => {}
        }
    }
    Ok(wrong)
}

/// Sources from a git URL at a pinned commit instead of the checkout.
fn pinned(options: &Options) -> Outcome {
    let copy = options.sources();
    let repository = copy.with_extension("git");
    let _ = fs::remove_dir_all(&repository);
    let commit = format!(
        "cd {copy} && git init --quiet --bare --initial-branch main {bare} && \
         git --git-dir {bare} --work-tree . add --all && git --git-dir {bare} --work-tree . \
         -c user.name=check -c user.email=check@localhost commit --quiet --message sources && git --git-dir {bare} rev-parse HEAD",
        copy = copy.display(),
        bare = repository.display()
    );
    let head = output(&mut options.inside(&format!("({commit})")))?;
    let lines = format!(
        "{LABORATORY}PITSTOP_SRC = \"git://{};protocol=file;branch=main\"\nPITSTOP_SRCREV = \"{}\"\n",
        repository.display(),
        head.trim()
    );
    options.configure(&[ours(options)], &lines)?;
    options.bitbake(
        "sources from git: unpack",
        "bitbake -c unpack pitstop pitstop-boot pitstop-data pitstop-bundle-native",
    )?;
    for (recipe, file) in [("pitstop", "Cargo.lock"), ("pitstop-boot", "rootfs-overlay/boot/grub/grub.cfg")] {
        let unpacked = PathBuf::from(options.variable(recipe, "S")?).join(file);
        if !unpacked.is_file() || unpacked.starts_with(&copy) {
            return Err(Failure::new(format!("{recipe} did not unpack {}", unpacked.display())));
        }
    }
    Ok(())
}

/// Without a TPM and without the word for it no image is built; nor with the build folder in the checkout. Both say why.
fn refused(options: &Options, layer: &[PathBuf]) -> Outcome {
    let inside = format!("{LABORATORY}PITSTOP_CHECKOUT = \"{}\"\n", options.work.display());
    for (name, lines, reason) in [
        ("refused: no TPM", "require conf/pitstop.inc\n".to_owned(), "device keys need a TPM"),
        ("refused: build folder in the checkout", inside, "the build folder lies in the checkout"),
    ] {
        eprintln!("==> {name}");
        options.configure(layer, &lines)?;
        let (succeeded, said) = options.said("bitbake -g pitstop-image")?;
        if succeeded || !said.contains(reason) {
            return Err(Failure::new(format!("{name}: bitbake does not say {reason:?}:\n{said}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_does_not_hold_is_told() {
        let built = ["chrony".to_owned()];
        let value = |_: &str, _: &str| Ok("tpm hmi-web".to_owned());
        let holds = [Builds("chrony"), Spares("ovmf"), Says("pitstop", "P", "tpm"), Omits("pitstop", "P", "hmi")];
        assert!(broken(&holds, &built, value).unwrap().is_empty());
        let not = [Builds("ovmf"), Spares("chrony"), Says("pitstop", "P", "hmi"), Omits("pitstop", "P", "tpm")];
        assert_eq!(broken(&not, &built, value).unwrap().len(), 4);
    }
}
