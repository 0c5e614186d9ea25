//! A timer finer than the runtime's milliseconds: a CAN frame lasts a quarter of one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

pub(super) struct Timer {
    fd: AsyncFd<Descriptor>,
}

struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        #[expect(unsafe_code, reason = "the runtime cannot see that a descriptor stays open")]
        // SAFETY: `Descriptor` owns the timer's descriptor and always names the same one; it is open as long as `AsyncFd` holds it.
        let fd = unsafe { AsyncFd::register(Descriptor(timer)) };
        Ok(Self { fd: fd.map_err(|error| io::Error::other(error.to_string()))? })
    }

    /// Returns at `at` or a few microseconds later. Cancel safe: the next call sets the timer anew.
    pub(super) async fn wait_until(&self, at: Instant) {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Others must have their turn, also when the bus is behind its clock.
            return tokio::task::consume_budget().await;
        }
        if self.wait(left).await.is_err() {
            tokio::time::sleep(left).await;
        }
    }

    async fn wait(&self, left: Duration) -> io::Result<()> {
        // Zero would switch the timer off.
        let left = TimeSpec::from_duration(left.max(Duration::from_nanos(1)));
        self.fd.get_ref().0.set(Expiration::OneShot(left), TimerSetTimeFlags::empty())?;
        loop {
            // Readiness of an earlier setting may still be noted; then reading would block, and clears it.
            let mut guard = self.fd.readable().await?;
            if let Ok(read) = guard.try_io(|descriptor| descriptor.get_ref().0.wait().map_err(io::Error::from)) {
                return read;
            }
        }
    }
}
