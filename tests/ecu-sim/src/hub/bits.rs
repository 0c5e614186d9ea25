//! How long a frame takes on the bus.

use std::time::Duration;

use pitstop_can::CanFrame;

/// Random data needs about one stuff bit in 31 (every run of five equal bits, counting stuff bits themselves).
const BITS_PER_STUFF_BIT: f64 = 31.0;

/// Bits at the nominal rate and bits at the data rate, without stuffing: (nominal, of them stuffed, data, of them stuffed).
fn bits(frame: &CanFrame) -> (f64, f64, f64, f64) {
    let payload = 8.0 * frame.data().len() as f64;
    let extended = frame.id().is_extended();
    if !frame.is_fd() {
        // SOF, identifier, control, CRC: 34 bits stuffed (54 with 29-bit identifier); then delimiter, ACK, EOF and 3 of pause.
        let stuffed = if extended { 54.0 } else { 34.0 } + payload;
        return (stuffed + 13.0, stuffed, 0.0, 0.0);
    }
    // ISO 11898-1: arbitration up to BRS and the tail at the nominal rate; ESI, DLC, data, stuff count and CRC at the data rate.
    let arbitration = if extended { 36.0 } else { 17.0 };
    let (crc, fixed_stuff) = if frame.data().len() <= 16 { (17.0, 6.0) } else { (21.0, 7.0) };
    let stuffed = 5.0 + payload;
    (arbitration + 13.0, arbitration, stuffed + 4.0 + crc + fixed_stuff, stuffed)
}

/// Time on the bus with stuff bits as random data has them. A classic bus has no data rate.
pub(super) fn duration(frame: &CanFrame, bitrate: u32, data_bitrate: Option<u32>) -> Duration {
    let (nominal, nominal_stuffed, data, data_stuffed) = bits(frame);
    let nominal = nominal + nominal_stuffed / BITS_PER_STUFF_BIT;
    let data = data + data_stuffed / BITS_PER_STUFF_BIT;
    let data_bitrate = data_bitrate.unwrap_or(bitrate);
    Duration::from_secs_f64(nominal / f64::from(bitrate) + data / f64::from(data_bitrate))
}

#[cfg(test)]
mod tests {
    use pitstop_can::CanId;

    use super::*;

    fn microseconds(frame: Result<CanFrame, pitstop_can::FrameError>, data: Option<u32>) -> f64 {
        duration(&frame.unwrap(), 500_000, data).as_secs_f64() * 1e6
    }

    #[test]
    fn times_agree_with_hand_calculation() {
        // 111 bits and 98/31 stuff bits at 2 us.
        let classic = microseconds(CanFrame::classic(CanId::Standard(0x7E0), &[0; 8]), None);
        assert!((classic - 228.3).abs() < 0.1, "{classic}");
        let extended = microseconds(CanFrame::classic(CanId::Extended(0x18DA_10F1), &[0; 8]), None);
        assert!((extended - 269.6).abs() < 0.1, "{extended}");
        // 30 bits nominal and 549 at 2 Mbit/s, 334.5 us unstuffed.
        let fd = microseconds(CanFrame::fd(CanId::Standard(0x7E1), &[0; 64]), Some(2_000_000));
        assert!((fd - 344.0).abs() < 1.0, "{fd}");
    }
}
