use std::path::PathBuf;
use std::str::FromStr;

/// Where a bus of the vehicle is reached: the `link` of a `[[bus]]` in `vehicle.toml`.
///
/// `hub:PATH#BUS` (the simulator's Unix socket), `socketcan:INTERFACE`, `socketcand:HOST:PORT:BUS`, `tcp:HOST:PORT` (DoIP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkAddress {
    Hub { path: PathBuf, bus: String },
    SocketCan { interface: String },
    Socketcand { host: String, port: u16, bus: String },
    Tcp { host: String, port: u16 },
}

/// Why a text is not a [`LinkAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkAddressError {
    #[error("link {text:?} has no kind; known are hub:, socketcan:, socketcand: and tcp:")]
    NoKind { text: String },
    #[error("link kind {kind:?} is not known; known are hub:, socketcan:, socketcand: and tcp:")]
    UnknownKind { kind: String },
    #[error("link {text:?} is not of the form {form}")]
    Form { text: String, form: &'static str },
}

impl LinkAddress {
    /// The same link with a relative socket path put below `root`.
    pub fn below(self, root: &std::path::Path) -> Self {
        match self {
            Self::Hub { path, bus } if path.is_relative() => Self::Hub { path: root.join(path), bus },
            other => other,
        }
    }
}

impl FromStr for LinkAddress {
    type Err = LinkAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(LinkAddressError::NoKind { text: text.into() });
        };
        let form = |form| LinkAddressError::Form { text: text.into(), form };
        match kind {
            "hub" => hub(rest).ok_or_else(|| form("hub:PATH#BUS")),
            "socketcan" if is_name(rest) => Ok(Self::SocketCan { interface: rest.into() }),
            "socketcan" => Err(form("socketcan:INTERFACE")),
            "socketcand" => socketcand(rest).ok_or_else(|| form("socketcand:HOST:PORT:BUS")),
            "tcp" => host_port(rest).map(|(host, port)| Self::Tcp { host, port }).ok_or_else(|| form("tcp:HOST:PORT")),
            kind => Err(LinkAddressError::UnknownKind { kind: kind.into() }),
        }
    }
}

fn hub(rest: &str) -> Option<LinkAddress> {
    let (path, bus) = rest.rsplit_once('#')?;
    (!path.is_empty() && is_name(bus)).then(|| LinkAddress::Hub { path: path.into(), bus: bus.into() })
}

fn socketcand(rest: &str) -> Option<LinkAddress> {
    let (address, bus) = rest.rsplit_once(':')?;
    let (host, port) = host_port(address)?;
    is_name(bus).then(|| LinkAddress::Socketcand { host, port, bus: bus.into() })
}

fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some(())?;
    Some((host.into(), port.parse().ok()?))
}

fn is_name(text: &str) -> bool {
    (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_kinds_are_read() {
        let hub = LinkAddress::Hub { path: "run/pitstop/hub.sock".into(), bus: "can0".into() };
        assert_eq!("hub:run/pitstop/hub.sock#can0".parse(), Ok(hub.clone()));
        assert_eq!(
            hub.below(std::path::Path::new("/r")),
            LinkAddress::Hub { path: "/r/run/pitstop/hub.sock".into(), bus: "can0".into() }
        );
        assert_eq!("socketcan:vcan0".parse(), Ok(LinkAddress::SocketCan { interface: "vcan0".into() }));
        assert_eq!(
            "socketcand:127.0.0.1:29536:can0".parse(),
            Ok(LinkAddress::Socketcand { host: "127.0.0.1".into(), port: 29536, bus: "can0".into() })
        );
        assert_eq!("tcp:[::1]:13400".parse(), Ok(LinkAddress::Tcp { host: "::1".into(), port: 13400 }));
    }

    #[test]
    fn anything_else_is_a_named_refusal() {
        for wrong in ["", "can0", "usb:x", "hub:#can0", "hub:x", "socketcan:", "tcp:localhost", "tcp::1", "tcp:h:99999"]
        {
            assert!(wrong.parse::<LinkAddress>().is_err(), "{wrong}");
        }
    }
}
