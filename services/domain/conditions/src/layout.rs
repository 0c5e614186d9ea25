/// Where a signal lies in a frame and what its raw number means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layout {
    /// DBC start bit: of the least significant bit for little endian, of the most significant for big endian;
    /// bit `n` is bit `n % 8` (0 = least significant) of byte `n / 8`.
    pub start: u16,
    /// Bits, 1 to 64.
    pub size: u8,
    pub order: ByteOrder,
    pub signed: bool,
    pub factor: f64,
    pub offset: f64,
    /// Smallest and largest physical value; `None` when the file gives no range (`[0|0]`).
    pub range: Option<(f64, f64)>,
}

/// Intel (little endian) or Motorola (big endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

/// Why a layout cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("it is {0} bits wide; 1 to 64 are possible")]
    Size(u64),
    #[error("it does not fit in the message's {0} bytes")]
    Outside(usize),
    #[error("its factor is zero or not finite, or its offset or range is not finite")]
    Numbers,
}

/// The raw number means nothing: outside the range that the file gives, or the frame is too short.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the value {value} is outside its range")]
pub struct OutOfRange {
    /// The physical value as computed, for diagnosis only. NaN when the frame is too short.
    pub value: f64,
}

impl Layout {
    /// Checks the layout against a message of `length` bytes.
    pub fn check(&self, length: usize) -> Result<(), LayoutError> {
        if self.size == 0 || self.size > 64 {
            return Err(LayoutError::Size(u64::from(self.size)));
        }
        let (low, high) = self.range.unwrap_or((0.0, 0.0));
        let numbers = [self.factor, self.offset, low, high];
        if self.factor == 0.0 || numbers.iter().any(|n| !n.is_finite()) || low > high {
            return Err(LayoutError::Numbers);
        }
        if self.bits().all(|(byte, _)| byte < length) { Ok(()) } else { Err(LayoutError::Outside(length)) }
    }

    /// The physical value in `data`.
    pub fn decode(&self, data: &[u8]) -> Result<f64, OutOfRange> {
        let raw = self.raw(data).ok_or(OutOfRange { value: f64::NAN })?;
        let value = raw.mul_add(self.factor, self.offset);
        if self.allows(value) { Ok(value) } else { Err(OutOfRange { value }) }
    }

    /// Writes the raw number nearest to `value` into `data`; other bits stay.
    pub fn encode(&self, value: f64, data: &mut [u8]) -> Result<(), OutOfRange> {
        let raw = ((value - self.offset) / self.factor).round();
        let (low, high) = self.raw_limits();
        let fits = raw >= low && raw <= high && self.allows(value) && self.bits().all(|(byte, _)| byte < data.len());
        if !fits {
            return Err(OutOfRange { value });
        }
        self.put_raw(raw as i128, data);
        Ok(())
    }

    /// All ones: how a sender says "not available".
    pub fn encode_unavailable(&self, data: &mut [u8]) {
        self.put_raw(-1, data);
    }

    fn put_raw(&self, raw: i128, data: &mut [u8]) {
        for (position, (byte, bit)) in self.bits().enumerate() {
            let Some(target) = data.get_mut(byte) else { continue };
            if raw >> position & 1 == 1 {
                *target |= 1 << bit;
            } else {
                *target &= !(1 << bit);
            }
        }
    }

    fn allows(&self, value: f64) -> bool {
        // Half a step of tolerance: 0.001 is not exact in binary, and the limit itself is allowed.
        let slack = self.factor.abs() / 2.0;
        value.is_finite() && self.range.is_none_or(|(low, high)| value > low - slack && value < high + slack)
    }

    fn raw_limits(&self) -> (f64, f64) {
        let bits = i32::from(self.size);
        if self.signed { (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0) } else { (0.0, 2f64.powi(bits) - 1.0) }
    }

    fn raw(&self, data: &[u8]) -> Option<f64> {
        let mut raw = 0u64;
        for (position, (byte, bit)) in self.bits().enumerate() {
            let value = u64::from(data.get(byte)? >> bit & 1);
            raw |= value << position;
        }
        if self.signed {
            let unused = 64u32.saturating_sub(u32::from(self.size));
            return Some(((raw << unused) as i64 >> unused) as f64);
        }
        Some(raw as f64)
    }

    /// Byte and bit of each bit of the signal, least significant first. At most 64, whatever `size` says.
    fn bits(&self) -> impl Iterator<Item = (usize, u8)> + use<> {
        let size = u16::from(self.size.min(64));
        let (start, order) = (self.start, self.order);
        (0..size).map(move |index| match order {
            ByteOrder::Little => place(u32::from(start) + u32::from(index)),
            ByteOrder::Big => {
                // Motorola bits run from the start bit downwards in a byte and on at the next byte's bit 7:
                // counted that way, bit 7 of byte 0 is 0.
                let first = u32::from(start) / 8 * 8 + (7 - u32::from(start) % 8);
                let counted = first + u32::from(size - 1 - index);
                place(counted / 8 * 8 + (7 - counted % 8))
            }
        })
    }
}

fn place(bit: u32) -> (usize, u8) {
    ((bit / 8) as usize, (bit % 8) as u8)
}
