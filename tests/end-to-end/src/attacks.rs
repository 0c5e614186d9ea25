//! What an attacker with some power over the backend or the network does.

use std::fs;

use anyhow::{Context, bail};

use crate::world::World;

/// Flips one byte in the middle of the new bundle for bcm, in the store from which it is served.
pub fn flip_a_byte(world: &World) -> anyhow::Result<()> {
    let bundle = world.firmware.after.first().context("no bundle")?;
    let length = fs::metadata(bundle)?.len();
    for entry in fs::read_dir(world.backend.dir.join("objects"))? {
        let path = entry?.path();
        if path.is_file() && fs::metadata(&path)?.len() == length && fs::read(&path)? == fs::read(bundle)? {
            let mut bytes = fs::read(&path)?;
            let middle = bytes.len() / 2;
            let byte = bytes.get_mut(middle).context("an empty bundle")?;
            *byte ^= 0x01;
            fs::write(&path, bytes)?;
            return Ok(());
        }
    }
    bail!("the backend's store does not hold {}", bundle.display())
}

/// Puts the Director's signed files of another vehicle in the place of this vehicle's.
pub async fn replay_another_vehicle(world: &mut World, release: &str) -> anyhow::Result<()> {
    let _ = (world, release);
    bail!("not wired yet")
}
