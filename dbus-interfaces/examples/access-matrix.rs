//! Prints who may call what, one try a line: user, group, bus name, interface, member, `allow` or `deny`, separated by tabs.
//!
//! For a test that makes every one of these calls on a real bus. A caller that is a group is tried as `nobody` in that group, and
//! `nobody` in no group of ours stands for everybody else.

use std::collections::BTreeSet;

use pitstop_dbus::access::{Access, Caller, TABLE};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let table = Access::parse(TABLE)?;
    let members: BTreeSet<(&str, &str, &str)> = table
        .allow
        .iter()
        .flat_map(|row| row.members.iter().map(|m| (row.service.as_str(), row.interface.as_str(), m.as_str())))
        .collect();
    let callers = table.callers.iter().map(|(name, who)| (name.as_str(), Some(who))).chain([("nobody", None)]);
    for (caller, who) in callers {
        let (user, group) = match who {
            Some(Caller::User(user)) => (user.as_str(), user.as_str()),
            Some(Caller::Group(group)) => ("nobody", group.as_str()),
            None => ("nobody", "nogroup"),
        };
        let say = |service: &str, interface: &str, member: &str, allowed: bool| {
            let verdict = if allowed { "allow" } else { "deny" };
            println!("{user}\t{group}\t{}\t{interface}\t{member}\t{verdict}", pitstop_dbus::bus_name(service));
        };
        for (service, interface, member) in &members {
            let allowed = table.allows(caller, service, interface, member);
            say(service, &pitstop_dbus::interface_name(interface), member, allowed);
        }
        for service in table.owners.keys() {
            let knows =
                table.allow.iter().any(|row| row.service == *service && row.callers.iter().any(|c| c == caller));
            say(service, "org.freedesktop.DBus.Introspectable", "Introspect", knows);
            say(service, "org.freedesktop.DBus.Properties", "Set", false);
        }
    }
    Ok(())
}
