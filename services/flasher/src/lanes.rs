//! Who may use what when: one job per ECU, one transfer per bus, and nobody behind a gateway that is being restarted.
//!
//! Buses are independent, so their rates add up. On one bus a second ECU erases or checks while the first one transfers.

use std::collections::BTreeMap;
use std::sync::Arc;

use pitstop_flashing::Vehicle;
use pitstop_flashing::vehicle::Ecu;
use pitstop_types::{BusName, EcuId};
use tokio::sync::{
    Mutex, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, RwLock, Semaphore,
};

pub(crate) struct Lanes {
    ecus: BTreeMap<EcuId, Arc<Mutex<()>>>,
    buses: BTreeMap<BusName, Arc<Semaphore>>,
    gateways: BTreeMap<EcuId, Arc<RwLock<()>>>,
}

/// Held while a job works on an ECU.
pub(crate) struct Lane {
    _ecu: OwnedMutexGuard<()>,
    _behind: Option<OwnedRwLockReadGuard<()>>,
    _gateway: Option<OwnedRwLockWriteGuard<()>>,
    transfers: Arc<Semaphore>,
    transfer: Option<OwnedSemaphorePermit>,
}

impl Lanes {
    pub(crate) fn new(vehicle: &Vehicle) -> Self {
        let gateways = vehicle.ecus.values().filter_map(|ecu| ecu.via.clone());
        Self {
            ecus: vehicle.ecus.keys().map(|ecu| (ecu.clone(), Arc::default())).collect(),
            buses: vehicle.buses.keys().map(|bus| (bus.clone(), Arc::new(Semaphore::new(1)))).collect(),
            gateways: gateways.map(|gateway| (gateway, Arc::default())).collect(),
        }
    }

    /// Waits until the ECU is free. `disrupts`: the ECU will restart, so what lies behind it must be left alone meanwhile.
    pub(crate) async fn enter(&self, ecu: &Ecu, disrupts: bool) -> Lane {
        // Always in this order, ECU before gateway, so that two jobs never wait for each other.
        let own = self.ecus.get(&ecu.id).cloned().unwrap_or_default().lock_owned().await;
        let behind = match ecu.via.as_ref().and_then(|via| self.gateways.get(via)) {
            Some(gateway) => Some(gateway.clone().read_owned().await),
            None => None,
        };
        let gateway = match self.gateways.get(&ecu.id) {
            Some(gateway) if disrupts => Some(gateway.clone().write_owned().await),
            _ => None,
        };
        let transfers = self.buses.get(&ecu.bus).cloned().unwrap_or_else(|| Arc::new(Semaphore::new(1)));
        Lane { _ecu: own, _behind: behind, _gateway: gateway, transfers, transfer: None }
    }

    /// The ECU for a short question, unless a job works on it or on its gateway.
    pub(crate) fn try_enter(&self, ecu: &Ecu) -> Option<Lane> {
        let own = self.ecus.get(&ecu.id).cloned().unwrap_or_default().try_lock_owned().ok()?;
        let behind = match ecu.via.as_ref().and_then(|via| self.gateways.get(via)) {
            Some(gateway) => Some(gateway.clone().try_read_owned().ok()?),
            None => None,
        };
        let transfers = self.buses.get(&ecu.bus).cloned().unwrap_or_else(|| Arc::new(Semaphore::new(1)));
        Some(Lane { _ecu: own, _behind: behind, _gateway: None, transfers, transfer: None })
    }
}

impl Lane {
    /// Takes the bus for a transfer; `false`: another ECU has it.
    pub(crate) fn try_transfer(&mut self) -> bool {
        if self.transfer.is_none() {
            self.transfer = self.transfers.clone().try_acquire_owned().ok();
        }
        self.transfer.is_some()
    }

    /// Gives the bus to others.
    pub(crate) fn end_transfer(&mut self) {
        self.transfer = None;
    }
}
