//! The stories a demonstration can tell.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use pitstop_dbus::{HmiProxy, ManagerProxy, PromptProxy, PromptsProxy, StepStatus, UpdateStatus};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::show::Screen;
use crate::world::{EcuVersion, Options, VIN, World};
use crate::{attacks, show};

/// Longest a story may take at real bus speed.
const LIMIT: Duration = Duration::from_secs(420);
/// How long after the campaign's start the vehicle is given to hear the hint, before it is told to check.
const HINT_PATIENCE: Duration = Duration::from_secs(15);
/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(150);

/// Which story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Every control unit gets new software.
    Happy,
    /// bcm rejects the new image at its check routine every time.
    EcuFails,
    /// All TCU services are killed at random points until the update is done.
    PowerCut,
    /// The driver says no.
    Declined,
    /// A byte of a served bundle is flipped.
    Tampered,
    /// Another vehicle's signed decision is replayed.
    WrongVehicle,
}

impl Scenario {
    /// The ends this story may have.
    pub fn expected(self) -> &'static [&'static str] {
        match self {
            Self::Happy => &["all-new"],
            Self::EcuFails => &["all-old"],
            Self::PowerCut => &["all-new", "all-old"],
            Self::Declined => &["declined"],
            Self::Tampered | Self::WrongVehicle => &["refused"],
        }
    }
}

/// Who answers the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer {
    /// The story itself.
    Auto,
    /// A person at this terminal, or at another with pitstopctl.
    Person,
}

/// What came of it; the last line of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub scenario: String,
    pub outcome: String,
    pub vin: &'static str,
    pub ecus: Vec<EcuReport>,
    pub consent: Value,
    pub backend: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Refusal>,
    pub duration_s: f64,
    pub restarts: u32,
    pub power_cuts: u32,
    pub seed: u64,
    /// Whether the story ended as it should.
    #[serde(skip)]
    pub as_it_should: bool,
    /// What is wrong, if it did not.
    pub problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct EcuReport {
    pub id: String,
    pub bus: String,
    pub banks: String,
    pub before: String,
    pub after: String,
}

/// A named error and its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub error: String,
    pub text: String,
}

/// Runs one story from an empty folder to its end.
pub async fn run(scenario: Scenario, options: &Options, answerer: Answerer) -> anyhow::Result<Report> {
    let world = World::start(options).await?;
    let mut story = Story::begin(world, scenario, options, answerer).await?;
    story.publish().await?;
    let end = story.until_ended().await?;
    story.report(end).await
}

/// How the vehicle says the update ended.
#[derive(Debug)]
struct End {
    outcome: String,
    error: String,
    text: String,
}

struct Story {
    world: World,
    scenario: Scenario,
    answerer: Answerer,
    screen: Screen,
    seed: u64,
    started: Instant,
    before: Vec<EcuVersion>,
    memory_before: Value,
    slots_before: Vec<String>,
    rng: StdRng,
    next_cut: Option<Instant>,
    cuts: u32,
    bus_speed: f64,
    asking: bool,
    update: String,
}

impl Story {
    async fn begin(world: World, scenario: Scenario, options: &Options, answerer: Answerer) -> anyhow::Result<Self> {
        let screen = Screen::new(options.quiet);
        screen.say(&format!("bus address for another terminal: DBUS_SYSTEM_BUS_ADDRESS={}", world.bus.address));
        screen.say(&format!("backend for a browser: {}", world.backend.rest().browser_url()));
        screen.say("first signed manifest: the backend learns what the vehicle is made of");
        let manager = ManagerProxy::new(&world.connection).await?;
        let check = manager.check().await.context("asking for the first check")?;
        let checked = pitstop_runtime::operation::wait(&world.connection, "Manager", &check, |_| {}).await;
        checked.context("the first check")?;
        let before = world.versions().await?;
        let memory_before = world.simulator.control(&json!({ "command": "digests" })).await?;
        let slots_before = world.slot_digests()?;
        Ok(Self {
            started: Instant::now(),
            rng: StdRng::seed_from_u64(options.seed),
            seed: options.seed,
            bus_speed: options.bus_speed,
            world,
            scenario,
            answerer,
            screen,
            before,
            memory_before,
            slots_before,
            next_cut: None,
            cuts: 0,
            asking: false,
            update: String::new(),
        })
    }

    /// Sets the story's trap, then starts the campaign.
    async fn publish(&mut self) -> anyhow::Result<()> {
        match self.scenario {
            Scenario::EcuFails => {
                let fault = json!({ "command": "fault", "ecu": "bcm", "fault": "reject-check" });
                self.world.simulator.control(&fault).await?;
            }
            Scenario::Tampered => attacks::flip_a_byte(&self.world)?,
            _ => {}
        }
        self.screen.say("campaign started");
        let release = self.world.release.clone();
        if self.scenario == Scenario::WrongVehicle {
            return attacks::replay_another_vehicle(&mut self.world, &release).await;
        }
        self.world.backend.rest().campaign(&release, &[VIN]).await?;
        if self.scenario == Scenario::PowerCut {
            self.plan_cut();
        }
        Ok(())
    }

    fn plan_cut(&mut self) {
        // A little less than an update takes here, so that every part of it is hit by some seed, and no cut comes too late.
        let span = 4.0 + 9.0 / self.bus_speed;
        let after = Duration::from_secs_f64(self.rng.random::<f64>() * span);
        self.next_cut = Some(Instant::now() + after);
    }

    async fn until_ended(&mut self) -> anyhow::Result<End> {
        let manager = ManagerProxy::new(&self.world.connection).await?;
        let mut told_to_check = false;
        while self.started.elapsed() < LIMIT {
            self.machine().await?;
            // During a restart nobody answers: look again.
            if let Ok((status, steps)) = manager.get_status().await {
                self.look(&status, &steps).await?;
                if let Some(end) = self.ended(&manager).await {
                    self.screen.finish();
                    return Ok(end);
                }
                if self.update.is_empty() && !told_to_check && self.started.elapsed() > HINT_PATIENCE {
                    self.screen.say("no hint heard; telling the vehicle to check");
                    told_to_check = manager.check().await.is_ok();
                }
            }
            sleep(LOOK).await;
        }
        self.screen.finish();
        let (status, _) = manager.get_status().await.unwrap_or_default();
        bail!("the update did not end in {} s; the manager says {status:?}", LIMIT.as_secs())
    }

    /// What happens to the machine: restarts it asked for, and power cuts.
    async fn machine(&mut self) -> anyhow::Result<()> {
        if self.next_cut.is_some_and(|at| Instant::now() >= at) {
            self.cuts += 1;
            self.screen.say(&format!("power cut {}", self.cuts));
            self.world.tcu.cut_power();
            sleep(Duration::from_millis(200)).await;
            self.world.tcu.boot()?;
            self.next_cut = None;
            if self.cuts < 5 && !self.rng.next_u32().is_multiple_of(3) {
                self.plan_cut();
            }
        }
        if self.world.tcu.tick().await? {
            self.screen.say(&format!("the TCU restarted into slot {}", self.world.tcu.slot));
        }
        Ok(())
    }

    async fn look(&mut self, status: &UpdateStatus, steps: &[StepStatus]) -> anyhow::Result<()> {
        if !status.update.is_empty() {
            self.update.clone_from(&status.update);
        }
        self.screen.update(status, steps);
        if status.phase.contains("consent") && !self.asking {
            self.ask().await?;
        }
        Ok(())
    }

    /// Shows the prompt and answers it, or lets a person do it.
    async fn ask(&mut self) -> anyhow::Result<()> {
        let prompts = PromptsProxy::new(&self.world.connection).await?;
        let Ok(open) = prompts.list_prompts().await else { return Ok(()) };
        let Some(path) = open.first() else { return Ok(()) };
        let prompt = PromptProxy::builder(&self.world.connection).path(path.clone()).build().await?;
        let facts = BTreeMap::from([
            ("purpose", prompt.purpose().await?),
            ("changes", prompt.changes().await?),
            ("expected time", format!("{} min", prompt.expected_seconds().await?.div_ceil(60))),
            ("unavailable", prompt.unavailable().await?),
            ("instructions", prompt.instructions().await?),
        ]);
        let digest = prompt.text_digest().await?;
        self.screen.say(&show::prompt(&facts));
        self.asking = true;
        let choice = match (self.answerer, self.scenario) {
            (Answerer::Person, _) => {
                self.screen.say("answer here with now, later or no, or from another terminal with: pitstopctl approve");
                ask_person(prompt.clone(), digest);
                return Ok(());
            }
            (Answerer::Auto, Scenario::Declined) => "no",
            (Answerer::Auto, _) => "now",
        };
        // A power cut may take the service away just now; the prompt is asked again then.
        match prompt.answer(choice, 0, "command-line", &digest).await {
            Ok(()) => self.screen.say(&format!("answered: {choice}")),
            Err(error) if error.is_temporary() => self.asking = false,
            Err(error) => bail!("answering the prompt: {error}"),
        }
        Ok(())
    }

    /// Whether the vehicle says that it is over: by its history, or by a refusal that made no update at all.
    async fn ended(&self, manager: &ManagerProxy<'_>) -> Option<End> {
        let history = manager.get_history(1).await.ok()?;
        if let Some(entry) = history.into_iter().next() {
            return Some(End { outcome: entry.end, error: entry.error_name, text: entry.error_text });
        }
        let refusal = manager.get_refusals(1).await.ok()?.into_iter().next()?;
        Some(End { outcome: "refused".to_owned(), error: refusal.error_name, text: refusal.text })
    }

    async fn report(mut self, end: End) -> anyhow::Result<Report> {
        let duration_s = self.started.elapsed().as_secs_f64();
        self.world.wait_for_services().await?;
        let after = self.world.versions().await?;
        let backend = self.backend_view(&end).await;
        let consent = self.consent().await;
        let mut problems = self.problems(&end, &after).await?;
        if backend["problem"].is_string() {
            problems.push(backend["problem"].as_str().unwrap_or_default().to_owned());
        }
        let named = (!end.error.is_empty()).then(|| Refusal { error: end.error.clone(), text: end.text.clone() });
        let refused = end.outcome == "refused";
        let report = Report {
            scenario: clap::ValueEnum::to_possible_value(&self.scenario)
                .map(|v| v.get_name().to_owned())
                .unwrap_or_default(),
            vin: VIN,
            ecus: self.ecu_reports(&after),
            consent,
            backend,
            refusal: if refused { named.clone() } else { None },
            failure: if refused { None } else { named },
            outcome: end.outcome,
            duration_s: (duration_s * 10.0).round() / 10.0,
            restarts: self.world.tcu.starts.saturating_sub(1),
            power_cuts: self.cuts,
            seed: self.seed,
            as_it_should: problems.is_empty(),
            problems,
        };
        self.world.tcu.shut_down().await;
        self.world.backend.stop().await;
        Ok(report)
    }

    fn ecu_reports(&self, after: &[EcuVersion]) -> Vec<EcuReport> {
        let now = |id: &str| after.iter().find(|e| e.id == id).map(|e| e.version.clone()).unwrap_or_default();
        self.before
            .iter()
            .map(|e| EcuReport {
                id: e.id.clone(),
                bus: e.bus.clone(),
                banks: e.banks.clone(),
                before: e.version.clone(),
                after: now(&e.id),
            })
            .collect()
    }

    /// Whether the end is one the story may have, and whether the control units agree with it.
    async fn problems(&self, end: &End, after: &[EcuVersion]) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        if self.scenario == Scenario::PowerCut && self.cuts == 0 {
            found.push("the update ended before the power was cut".to_owned());
        }
        if !self.scenario.expected().contains(&end.outcome.as_str()) {
            found.push(format!(
                "ended {} ({} {}), expected {:?}",
                end.outcome,
                end.error,
                end.text,
                self.scenario.expected()
            ));
        }
        let wanted = crate::firmware::versions();
        for ecu in after {
            let Some((_, old, new)) = wanted.iter().find(|(id, ..)| *id == ecu.id) else { continue };
            let right = if end.outcome == "all-new" { new } else { old };
            if ecu.version != *right {
                found.push(format!("{} runs {:?}, {} means {right}", ecu.id, ecu.version, end.outcome));
            }
        }
        if matches!(end.outcome.as_str(), "refused" | "declined") {
            let memory = self.world.simulator.control(&json!({ "command": "digests" })).await?;
            // A driver may decline after spare banks were written; a refusal comes before anything was.
            if end.outcome == "refused" && memory != self.memory_before {
                found.push("an ECU's memory was written although the update was refused".to_owned());
            }
            if end.outcome == "refused" && self.world.slot_digests()? != self.slots_before {
                found.push("a slot was written although the update was refused".to_owned());
            }
        }
        Ok(found)
    }

    async fn consent(&self) -> Value {
        let Ok(hmi) = HmiProxy::new(&self.world.connection).await else { return Value::Null };
        match hmi.get_answer(&self.update).await {
            Ok(answer) if !answer.choice.is_empty() => json!({
                "choice": answer.choice, "origin": answer.origin, "at": answer.answered_at, "text_sha256": answer.text_digest
            }),
            _ => Value::Null,
        }
    }

    /// The backend's own state of this vehicle, once it is a final one.
    async fn backend_view(&self, end: &End) -> Value {
        let expected: &[&str] = match end.outcome.as_str() {
            "all-new" => &["succeeded"],
            "all-old" => &["rolled_back", "failed"],
            "declined" => &["declined", "refused"],
            _ => &["refused", "failed"],
        };
        let mut view = Value::Null;
        // The report and the signed manifest are on their way.
        for _ in 0..200 {
            view = self.world.backend_state().await.unwrap_or_else(|e| json!({ "error": format!("{e:#}") }));
            if view["vehicle"].as_str().is_some_and(|state| expected.contains(&state)) {
                return view;
            }
            sleep(Duration::from_millis(100)).await;
        }
        view["problem"] = json!(format!("the backend says {}, expected {expected:?}", view["vehicle"]));
        view
    }
}

/// Reads answers from the terminal until one counts.
fn ask_person(prompt: PromptProxy<'static>, digest: String) {
    tokio::spawn(async move {
        use tokio::io::AsyncBufReadExt;
        let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let choice = line.trim();
            if !["now", "later", "no"].contains(&choice) {
                eprintln!("write now, later or no");
                continue;
            }
            match prompt.answer(choice, 0, "command-line", &digest).await {
                Ok(()) => return,
                Err(error) => eprintln!("{error}: {}", error.advice()),
            }
        }
    });
}
