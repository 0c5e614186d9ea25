//! A new backend's folder for unit tests.

use crate::clock::Clock;
use crate::init::{InitOptions, init};
use crate::settings::DataDir;

pub(crate) fn init_dir(dir: &DataDir) {
    init(dir, &options(), &Clock::System).unwrap();
}

pub(crate) fn options() -> InitOptions {
    let any = "127.0.0.1:0".parse().unwrap();
    InitOptions {
        hosts: vec!["127.0.0.1".into(), "localhost".into()],
        public: any,
        device: any,
        admin: any,
        mqtt_host: "127.0.0.1".into(),
        mqtt_port: 8883,
        mqtt_bind: "127.0.0.1".into(),
        broker_user: None,
        keyring: None,
    }
}
