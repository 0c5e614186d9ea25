use pitstop_types::UpdateEnd;

use super::{Stop, World};
use crate::plan::plan;
use crate::{Event, Phase, Record, Refused, effects, next_timer, timer_event};

/// How a simulated update went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub end: Option<UpdateEnd>,
    /// Lives of the TCU.
    pub lives: u32,
    /// Points at which power could have failed.
    pub points: usize,
    pub record: Box<Record>,
}

/// Runs the update to its end, through as many restarts as it takes. `Err`: it does not end.
pub fn run(world: &mut World) -> Result<Outcome, String> {
    live_on(world, |_| {})
}

/// As [`run`]; `between` may change the world between two lives.
pub fn live_on(world: &mut World, mut between: impl FnMut(&mut World)) -> Result<Outcome, String> {
    for lives in 1..500 {
        match life(world)? {
            Ok(record) => {
                let points = world.power.points;
                return Ok(Outcome { end: record.end, lives, points, record: Box::new(record) });
            }
            Err(Stop::Cut | Stop::Restart) => between(world),
        }
    }
    Err(format!("no end after 500 starts: {:?}", world.load().map(|record| record.phase)))
}

/// One life of the TCU. The smallest possible driver: what it does is what every driver of the machine must do.
fn life(world: &mut World) -> Result<Result<Record, Stop>, String> {
    let boot = world.boot();
    let mut record = match world.load() {
        Some(record) => record,
        None => {
            let plan = plan(&world.decision, &super::facts()).map_err(|refusal| refusal.to_string())?;
            Record::new(world.decision.clone(), plan, world.now)
        }
    };
    let mut event = Some(Event::Started(boot));
    for _ in 0..2000 {
        if let Some(event) = event.take() {
            match record.apply(&event, world.now) {
                Ok(next) => {
                    if let Err(stop) = world.store(&next) {
                        return Ok(Err(stop));
                    }
                    record = next;
                }
                // An outcome that came too late for its phase.
                Err(Refused::Stale { .. }) => {}
                Err(refused) => return Err(refused.to_string()),
            }
        }
        if record.phase == Phase::Ended {
            return Ok(Ok(record));
        }
        event = timer_event(&record, world.now);
        if event.is_some() {
            continue;
        }
        match effects(&record).first() {
            Some(effect) => match world.perform(&record, effect) {
                Ok(outcome) => event = Some(outcome),
                Err(stop) => return Ok(Err(stop)),
            },
            None => match next_timer(&record) {
                Some(at) => world.now = world.now.max(at),
                None => return Err(format!("nothing to do in phase {}", record.phase)),
            },
        }
    }
    Err(format!("no end within 2000 events, phase {}", record.phase))
}
