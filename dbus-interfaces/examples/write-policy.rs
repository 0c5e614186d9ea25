//! Writes the bus policy and the system users into `rootfs-overlay/` from `access.toml`.

use std::fs;
use std::path::Path;

use pitstop_dbus::access::{Access, TABLE};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-overlay");
    let table = Access::parse(TABLE)?;
    let policies = overlay.join("usr/share/dbus-1/system.d");
    fs::create_dir_all(&policies)?;
    for service in table.owners.keys() {
        let file = policies.join(format!("{}.conf", pitstop_dbus::bus_name(service)));
        fs::write(&file, table.policy(service))?;
        println!("{}", file.display());
    }
    let users = overlay.join("usr/lib/sysusers.d");
    fs::create_dir_all(&users)?;
    fs::write(users.join("pitstop.conf"), table.sysusers())?;
    Ok(())
}
