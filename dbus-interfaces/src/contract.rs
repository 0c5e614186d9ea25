//! Holds what a running object serves against the XML. Used by each service's introspection test.

use std::collections::BTreeMap;

use zbus_xml::{ArgDirection, Interface, Node};

/// What differs between the contract's XML for `interface` and the introspection data a running object gave. Empty: nothing.
/// Comments do not count; names, types, directions and access do.
pub fn differences(interface: &str, served: &str) -> Vec<String> {
    let Some(expected) = crate::xml(interface) else { return vec![format!("{interface} is not in the contract")] };
    match (members(expected, interface), members(served, interface)) {
        (Ok(expected), Ok(served)) => {
            let mut found = Vec::new();
            for (name, shape) in &expected {
                match served.get(name) {
                    None => found.push(format!("{interface}: {name} is not served")),
                    Some(other) if other != shape => {
                        found.push(format!("{interface}: {name} is {other}, the XML says {shape}"));
                    }
                    Some(_) => {}
                }
            }
            found.extend(
                served
                    .keys()
                    .filter(|n| !expected.contains_key(*n))
                    .map(|n| format!("{interface}: {n} is not in the XML")),
            );
            found
        }
        (Err(error), _) => vec![format!("the XML of {interface}: {error}")],
        (_, Err(error)) => vec![format!("the served {interface}: {error}")],
    }
}

/// Members of an interface by name, each with its shape as one comparable text.
fn members(xml: &str, interface: &str) -> Result<BTreeMap<String, String>, String> {
    let node = Node::from_reader(xml.as_bytes()).map_err(|e| e.to_string())?;
    let found = node.interfaces().iter().find(|i| i.name().as_str() == interface);
    Ok(shapes(found.ok_or("no such interface")?))
}

fn shapes(interface: &Interface<'_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for method in interface.methods() {
        let args = |wanted: ArgDirection| {
            let of = |a: &zbus_xml::Arg<'_>| format!("{} {}", a.name().unwrap_or("?"), a.ty().to_string());
            let chosen = method.args().iter().filter(|a| a.direction().unwrap_or(ArgDirection::In) == wanted);
            chosen.map(of).collect::<Vec<_>>().join(", ")
        };
        all.insert(
            format!("method {}", method.name()),
            format!("({}) -> ({})", args(ArgDirection::In), args(ArgDirection::Out)),
        );
    }
    for signal in interface.signals() {
        let args: Vec<String> =
            signal.args().iter().map(|a| format!("{} {}", a.name().unwrap_or("?"), a.ty().to_string())).collect();
        all.insert(format!("signal {}", signal.name()), args.join(", "));
    }
    for property in interface.properties() {
        all.insert(
            format!("property {}", property.name()),
            format!("{} {:?}", property.ty().to_string(), property.access()),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_equals_itself_and_a_change_is_seen() {
        for interface in crate::INTERFACES {
            assert_eq!(differences(interface.name, interface.xml), Vec::<String>::new());
        }
        let manager = crate::xml("io.pitstop.Ota1.Manager").unwrap();
        let changed =
            manager.replace("<arg name=\"status\" type=\"(ssssxxasss)\"", "<arg name=\"status\" type=\"(ssss)\"");
        assert_eq!(differences("io.pitstop.Ota1.Manager", &changed).len(), 1);
        let renamed = manager.replace("GetStatus", "GetState");
        assert_eq!(differences("io.pitstop.Ota1.Manager", &renamed).len(), 2);
    }
}
