use std::fmt;

/// Data identifier (ISO 14229-1, annex C).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Did(pub u16);

impl Did {
    pub const BOOT_SOFTWARE_IDENTIFICATION: Self = Self(0xF180);
    pub const BOOT_FINGERPRINT: Self = Self(0xF183);
    pub const APPLICATION_FINGERPRINT: Self = Self(0xF184);
    pub const ACTIVE_SESSION: Self = Self(0xF186);
    pub const ECU_SOFTWARE_NUMBER: Self = Self(0xF188);
    pub const ECU_SOFTWARE_VERSION: Self = Self(0xF189);
    pub const SYSTEM_SUPPLIER: Self = Self(0xF18A);
    pub const MANUFACTURING_DATE: Self = Self(0xF18B);
    pub const ECU_SERIAL_NUMBER: Self = Self(0xF18C);
    pub const VIN: Self = Self(0xF190);
    pub const ECU_HARDWARE_NUMBER: Self = Self(0xF191);
    pub const REPAIR_SHOP_OR_TESTER_SERIAL: Self = Self(0xF198);
    pub const PROGRAMMING_DATE: Self = Self(0xF199);
    /// Fingerprint, by usage in the OEM range F100..F17F.
    pub const OEM_FINGERPRINT: Self = Self(0xF15A);
    /// RXSWIN (UN R156) as this project serves it, in the OEM range F1A0..F1EF.
    pub const RXSWIN: Self = Self(0xF1EF);
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DID 0x{:04X}", self.0)
    }
}
