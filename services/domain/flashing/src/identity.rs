use pitstop_types::SoftwareVersion;
use pitstop_uds::{Did, Response};

use crate::profile::Identification;

/// Longest identification text taken from an ECU, in bytes; longer answers are cut.
const MAX_TEXT: usize = 64;

/// Software as an ECU names it: DID F188 and F189.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ident {
    pub software_number: String,
    pub version: SoftwareVersion,
}

/// What an ECU says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EcuIdentity {
    /// As the ECU spells it, not yet compared with anything.
    pub hardware: String,
    pub serial: String,
    pub software_number: String,
    /// `None`: it runs its bootloader and has no valid software.
    pub version: Option<SoftwareVersion>,
}

impl EcuIdentity {
    /// The DIDs to ask for, one request each: the lengths in a joint answer are known to nobody.
    pub fn dids(ids: &Identification) -> [Did; 4] {
        [ids.hardware, ids.software_number, ids.version, ids.serial]
    }

    /// Takes the answer to a request for `did`. A negative answer leaves the value empty, which for number and version means
    /// that there is no valid software.
    pub fn take(&mut self, ids: &Identification, did: Did, response: &Response) {
        let text = response.value_of(did).map(text).unwrap_or_default();
        if did == ids.hardware {
            self.hardware = text;
        } else if did == ids.software_number {
            self.software_number = text;
        } else if did == ids.version {
            self.version = SoftwareVersion::new(text).ok();
        } else if did == ids.serial {
            self.serial = text;
        }
    }

    /// Whether the ECU runs this software.
    pub fn runs(&self, ident: &Ident) -> bool {
        self.version.as_ref() == Some(&ident.version) && self.software_number == ident.software_number
    }

    /// Whether the ECU has no valid software and waits in its bootloader.
    pub fn in_bootloader(&self) -> bool {
        self.version.is_none()
    }
}

/// Identification texts are ASCII, padded with zeros, blanks or erased flash.
fn text(bytes: &[u8]) -> String {
    let printable = bytes.iter().take(MAX_TEXT).copied().take_while(|b| (0x20..0x7F).contains(b));
    printable.map(char::from).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_uds::{Nrc, ServiceId};

    const IDS: Identification = Identification {
        hardware: Did::ECU_HARDWARE_NUMBER,
        software_number: Did::ECU_SOFTWARE_NUMBER,
        version: Did::ECU_SOFTWARE_VERSION,
        serial: Did::ECU_SERIAL_NUMBER,
    };

    #[test]
    fn padded_texts_are_read_and_a_refusal_means_no_software() {
        let mut ecu = EcuIdentity::default();
        let answer =
            |did: Did, value: &[u8]| Response::ReadDataByIdentifier { records: [&did.0.to_be_bytes(), value].concat() };
        ecu.take(&IDS, IDS.hardware, &answer(IDS.hardware, b"bcm-a1\0\0\0"));
        ecu.take(&IDS, IDS.version, &answer(IDS.version, b"1.0.0   "));
        ecu.take(&IDS, IDS.software_number, &answer(IDS.software_number, b"PS-1\xFF\xFF"));
        assert_eq!(ecu.hardware, "bcm-a1");
        assert!(ecu.runs(&Ident { software_number: "PS-1".into(), version: SoftwareVersion::new("1.0.0").unwrap() }));
        ecu.take(&IDS, IDS.version, &Response::negative(ServiceId::ReadDataByIdentifier, Nrc::RequestOutOfRange));
        assert!(ecu.in_bootloader());
    }
}
