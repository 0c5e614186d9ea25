//! Who may call what: the table `access.toml`, and the bus policy and system users made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use serde::Deserialize;

/// The table as it stands beside this crate.
pub const TABLE: &str = include_str!("../access.toml");

/// Who calls: a system user or a group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Caller {
    User(String),
    Group(String),
}

impl Caller {
    /// Name of the user or group; `None` for root, who is there without us.
    fn made(&self) -> Option<&str> {
        let (Self::User(name) | Self::Group(name)) = self;
        Some(name.as_str()).filter(|name| *name != "root")
    }
}

/// One row: these members of this interface at this service may be called by these callers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    pub service: String,
    pub interface: String,
    pub members: Vec<String>,
    pub callers: Vec<String>,
}

/// The whole table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    pub callers: BTreeMap<String, Caller>,
    /// Number of each user and group but root; a user's own group has the same.
    pub ids: BTreeMap<String, u32>,
    pub owners: BTreeMap<String, String>,
    pub allow: Vec<Allow>,
}

/// Why the table is not one.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("the access table is not in its form")]
    Form(#[source] Box<toml::de::Error>),
    #[error("the access table names caller {0:?}, which it does not define")]
    Caller(String),
    #[error("the access table gives {0:?} no number of its own from {first} to {last}", first = IDS.start(), last = IDS.end())]
    Id(String),
}

/// Numbers that users and groups of ours may have; see the table.
const IDS: RangeInclusive<u32> = 740..=759;

impl Access {
    /// Reads a table and checks that every caller it names is defined, and has a number that nobody else has.
    pub fn parse(text: &str) -> Result<Self, AccessError> {
        let table: Self = toml::from_str(text).map_err(|e| AccessError::Form(Box::new(e)))?;
        let named = table.allow.iter().flat_map(|row| &row.callers).chain(table.owners.values());
        if let Some(unknown) = named.into_iter().find(|name| !table.callers.contains_key(*name)) {
            return Err(AccessError::Caller(unknown.clone()));
        }
        let made: BTreeSet<&str> = table.callers.values().filter_map(Caller::made).collect();
        let mut given = BTreeSet::new();
        let mut wrong = table
            .ids
            .iter()
            .filter(|(name, id)| !made.contains(name.as_str()) || !IDS.contains(id) || !given.insert(**id));
        let without = made.iter().find(|name| !table.ids.contains_key(**name)).map(|name| (*name).to_owned());
        match wrong.next().map(|(name, _)| name.clone()).or(without) {
            Some(name) => Err(AccessError::Id(name)),
            None => Ok(table),
        }
    }

    /// Whether `caller` may call `member` of `interface` at `service` (short names: `Manager`).
    pub fn allows(&self, caller: &str, service: &str, interface: &str, member: &str) -> bool {
        self.allow.iter().any(|row| {
            row.service == service
                && row.interface == interface
                && row.members.iter().any(|m| m == member)
                && row.callers.iter().any(|c| c == caller)
        })
    }

    /// The bus policy file of one service.
    pub fn policy(&self, service: &str) -> String {
        let name = crate::bus_name(service);
        let mut xml = String::from(HEADER);
        if let Some(Caller::User(user)) = self.owners.get(service).and_then(|o| self.callers.get(o)) {
            let _ = writeln!(xml, "  <policy user=\"{user}\">\n    <allow own=\"{name}\"/>\n  </policy>");
        }
        // Calls only: a rule with a destination also meets broadcast signals on their way to the name's owner, and without
        // them no service hears another.
        let _ = writeln!(
            xml,
            "  <policy context=\"default\">\n    <deny send_destination=\"{name}\" send_type=\"method_call\"/>\n  </policy>"
        );
        for (caller, who) in &self.callers {
            let rules = self.rules(service, caller);
            if rules.is_empty() {
                continue;
            }
            let _ = match who {
                Caller::User(user) => writeln!(xml, "  <policy user=\"{user}\">"),
                Caller::Group(group) => writeln!(xml, "  <policy group=\"{group}\">"),
            };
            for (interface, member) in rules {
                let _ = writeln!(
                    xml,
                    "    <allow send_destination=\"{name}\" send_interface=\"{interface}\" send_member=\"{member}\"/>"
                );
            }
            xml.push_str("  </policy>\n");
        }
        xml.push_str("</busconfig>\n");
        xml
    }

    /// What a caller may send to a service: its rows, and for whoever has a row also reading of properties and introspection.
    fn rules(&self, service: &str, caller: &str) -> BTreeSet<(String, String)> {
        let mut rules: BTreeSet<(String, String)> = BTreeSet::new();
        for row in self.allow.iter().filter(|r| r.service == service && r.callers.iter().any(|c| c == caller)) {
            let interface = crate::interface_name(&row.interface);
            rules.extend(row.members.iter().map(|m| (interface.clone(), m.clone())));
        }
        if !rules.is_empty() {
            for (interface, member) in READING {
                rules.insert(((*interface).to_owned(), (*member).to_owned()));
            }
        }
        rules
    }

    /// Users and groups in the form of sysusers.d(5).
    pub fn sysusers(&self) -> String {
        let mut text = String::from(
            "# Made from dbus-interfaces/access.toml: one user per service; groups for screens and for administration.\n",
        );
        for caller in self.callers.values() {
            let Some((name, id)) = caller.made().and_then(|name| self.ids.get_key_value(name)) else { continue };
            let _ = match caller {
                Caller::User(_) => writeln!(text, "u {name} {id} \"Pitstop\" - -"),
                Caller::Group(_) => writeln!(text, "g {name} {id} -"),
            };
        }
        // The TPM's device node belongs to this group. No file on a disk does, so any number is right.
        text.push_str("g tss - -\nm pitstop-backend-link tss\nm pitstop-validator tss\n");
        text
    }
}

/// Makes root a member of `group` for the life of this process, if the group exists: the bus judges by the groups a process has, and
/// root, who may take any, should not have to log in again after set-up. For everybody else nothing changes.
pub fn join_group_as_root(group: &str) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    if let (Ok(Some(group)), Ok(mut groups)) = (nix::unistd::Group::from_name(group), nix::unistd::getgroups())
        && !groups.contains(&group.gid)
    {
        groups.push(group.gid);
        // Without it the bus refuses by name, which is answer enough.
        let _ = nix::unistd::setgroups(&groups);
    }
}

/// The group that may do what pitstopctl does.
pub const ADMIN_GROUP: &str = "pitstop-admin";

/// What goes with any permission at a service.
const READING: &[(&str, &str)] = &[
    ("org.freedesktop.DBus.Introspectable", "Introspect"),
    ("org.freedesktop.DBus.Peer", "Ping"),
    ("org.freedesktop.DBus.Properties", "Get"),
    ("org.freedesktop.DBus.Properties", "GetAll"),
];

const HEADER: &str = "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\" \
\"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">
<!-- Made from dbus-interfaces/access.toml. Change the table, then run the example write-policy of pitstop-dbus. -->
<busconfig>
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn table() -> Access {
        Access::parse(TABLE).unwrap()
    }

    /// Members of an interface, out of its XML.
    fn methods(interface: &str) -> BTreeSet<String> {
        let xml = crate::xml(&crate::interface_name(interface)).unwrap();
        let start = xml.find(&format!("<interface name=\"{}\"", crate::interface_name(interface))).unwrap();
        let body = &xml[start..start + xml[start..].find("</interface>").unwrap()];
        body.split("<method name=\"").skip(1).map(|rest| rest[..rest.find('"').unwrap()].to_owned()).collect()
    }

    #[test]
    fn the_table_names_every_member_of_the_contract_and_no_other() {
        let table = table();
        for interface in crate::INTERFACES {
            let short = interface.name.rsplit('.').next().unwrap();
            let named: BTreeSet<String> =
                table.allow.iter().filter(|r| r.interface == short).flat_map(|r| r.members.clone()).collect();
            assert_eq!(named, methods(short), "{short}");
        }
    }

    #[test]
    fn everybody_has_a_number_of_his_own() {
        let without = TABLE.replace("pitstop-manager = 742\n", "");
        assert!(matches!(Access::parse(&without), Err(AccessError::Id(name)) if name == "pitstop-manager"));
        for (from, to) in [("= 742", "= 743"), ("= 742", "= 999"), ("pitstop-manager = 742", "pitstop-gone = 742")] {
            assert!(matches!(Access::parse(&TABLE.replace(from, to)), Err(AccessError::Id(_))), "{to}");
        }
        assert!(table().sysusers().contains("\nu pitstop-manager 742 "));
    }

    #[test]
    fn the_limits_of_the_design_hold() {
        let table = table();
        for member in ["Stage", "Activate", "Commit", "RollBack"] {
            assert!(!table.allows("backend-link", "Flasher", "Flasher", member));
            assert!(!table.allows("backend-link", "SelfUpdate", "SelfUpdate", member));
            assert!(!table.allows("admin", "Flasher", "Flasher", member));
        }
        // Two paths to the slots, and nobody on both; the diagnostic server reaches no content but through the validator.
        for member in ["Stage", "Activate", "Reboot", "MarkGood", "Commit", "RollBack"] {
            assert!(!table.allows("uds-server", "SelfUpdate", "SelfUpdate", member));
            assert!(!table.allows("manager", "SelfUpdate", "Workshop", member));
        }
        for member in ["Admit", "OpenAdmitted", "RaiseFloors", "Release"] {
            assert!(!table.allows("uds-server", "Validator", "Validator", member));
        }
        assert!(!table.allows("uds-server", "VehicleState", "VehicleState", "RequestInhibit"));
        assert!(!table.allows("manager", "Hmi", "Prompt", "Answer"));
        assert!(!table.allows("manager", "Validator", "Validator", "OpenAdmitted"));
        assert!(!table.allows("root", "Hmi", "Prompt", "Answer"));
    }

    #[test]
    fn the_files_of_the_overlay_are_current() {
        let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-overlay");
        let table = table();
        for service in table.owners.keys() {
            let file = overlay.join(format!("usr/share/dbus-1/system.d/{}.conf", crate::bus_name(service)));
            assert_eq!(std::fs::read_to_string(&file).unwrap(), table.policy(service), "{}", file.display());
        }
        let users = std::fs::read_to_string(overlay.join("usr/lib/sysusers.d/pitstop.conf")).unwrap();
        assert_eq!(users, table.sysusers());
    }
}
