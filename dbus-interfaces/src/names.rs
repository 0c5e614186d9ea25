/// Prefix of every error name.
pub const ERROR_PREFIX: &str = "io.pitstop.Ota1.Error";

/// One interface of the contract and the file that defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Full name, `io.pitstop.Ota1.Manager`.
    pub name: &'static str,
    /// The commented XML that defines it.
    pub xml: &'static str,
}

macro_rules! interfaces {
    ($($name:literal in $file:literal),* $(,)?) => {
        /// Every interface of the contract.
        pub const INTERFACES: &[Interface] = &[$(
            Interface { name: concat!("io.pitstop.Ota1.", $name), xml: include_str!(concat!("../io.pitstop.Ota1.", $file, ".xml")) }
        ),*];
    };
}

interfaces! {
    "Manager" in "Manager",
    "BackendLink" in "BackendLink",
    "Downloader" in "Downloader",
    "Validator" in "Validator",
    "Hmi" in "Hmi",
    "Prompts" in "Prompts",
    "Prompt" in "Prompts",
    "Notice" in "Prompts",
    "Flasher" in "Flasher",
    "SelfUpdate" in "SelfUpdate",
    "Workshop" in "Workshop",
    "UdsServer" in "UdsServer",
    "VehicleState" in "VehicleState",
    "Operation" in "Operation",
}

/// Well-known bus name of the service `X` (`Manager`): `io.pitstop.Ota1.X`.
pub fn bus_name(service: &str) -> String {
    format!("io.pitstop.Ota1.{service}")
}

/// systemd's unit of the service `X` without `.service`: `SelfUpdate` is served by `pitstop-self-update`.
pub fn unit_name(service: &str) -> String {
    service.chars().fold("pitstop".to_owned(), |mut unit, c| {
        if c.is_ascii_uppercase() {
            unit.push('-');
        }
        unit.push(c.to_ascii_lowercase());
        unit
    })
}

/// Interface name, the same words as the bus name.
pub fn interface_name(interface: &str) -> String {
    format!("io.pitstop.Ota1.{interface}")
}

/// Main object of the service `X`: `/io/pitstop/Ota1/X`.
pub fn object_path(service: &str) -> String {
    format!("/io/pitstop/Ota1/{service}")
}

/// The XML that defines the interface with this full name.
pub fn xml(interface: &str) -> Option<&'static str> {
    INTERFACES.iter().find(|i| i.name == interface).map(|i| i.xml)
}
