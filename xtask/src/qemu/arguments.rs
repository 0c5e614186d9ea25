//! The words of `cargo xtask qemu`, understood or refused as a whole.

use std::slice::Iter;

use super::scenario::{self, Order};
use crate::shell::Failure;

/// How many flush points are booted unless told otherwise.
pub const SAMPLE: usize = 5;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    Help,
    Terminal { fresh: bool },
    Smoke { json: bool },
    Vehicle { build: bool },
    Inside,
    Scenario(Order),
}

/// Understands the words, or says which one cannot be meant.
pub fn parse(args: &[String]) -> Result<Wish, Failure> {
    let mut given = Given::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => given.help = true,
            "--smoke" => given.smoke = true,
            "--vehicle" => given.vehicle = true,
            "--inside" => given.inside = true,
            "--fresh" => given.fresh = true,
            "--json" => given.json = true,
            "--auto" => given.auto = true,
            "--no-build" => given.no_build = true,
            "--ecus" => given.ecus = true,
            "--recorded" => given.recorded = true,
            "--scenario" => given.scenario = Some(value(word, "a name", &mut words)?.to_owned()),
            "--cycles" => given.cycles = Some(number(word, &mut words)?),
            "--seed" => given.seed = Some(number(word, &mut words)?),
            "--sample" => given.sample = Some(number(word, &mut words)?),
            other => return Err(Failure::new(format!("cargo xtask qemu does not know {other:?}; see --help"))),
        }
    }
    given.wish()
}

fn value<'a>(flag: &str, what: &str, words: &mut Iter<'a, String>) -> Result<&'a str, Failure> {
    let word = words.next().map(String::as_str).filter(|word| !word.starts_with("--"));
    word.ok_or_else(|| Failure::new(format!("{flag} needs {what} behind it")))
}

fn number(flag: &str, words: &mut Iter<'_, String>) -> Result<u64, Failure> {
    let word = value(flag, "a number", words)?;
    word.parse().map_err(|_| Failure::new(format!("{flag} needs a number, not {word:?}")))
}

/// The words as they stand there.
#[derive(Debug, Default)]
struct Given {
    help: bool,
    smoke: bool,
    vehicle: bool,
    inside: bool,
    fresh: bool,
    json: bool,
    auto: bool,
    no_build: bool,
    ecus: bool,
    recorded: bool,
    scenario: Option<String>,
    cycles: Option<u64>,
    seed: Option<u64>,
    sample: Option<u64>,
}

impl Given {
    fn wish(self) -> Result<Wish, Failure> {
        if self.help {
            return Ok(Wish::Help);
        }
        let name = self.scenario.as_deref();
        if [self.smoke, self.vehicle, self.inside, name.is_some()].iter().filter(|asked| **asked).count() > 1 {
            return Err(Failure::new("only one of --smoke, --vehicle, --inside and --scenario at a time"));
        }
        if let Some(name) = name.filter(|name| !scenario::names().contains(name)) {
            return Err(Failure::new(format!("there is no story {name:?}; known: {}", scenario::names().join(", "))));
        }
        // A flag that changes nothing is more likely a slip than a wish.
        let (cuts, flushes) = (name == Some("power-cut"), name == Some("flushes"));
        let misplaced = [
            ("--ecus", self.ecus && !cuts, "--scenario power-cut"),
            ("--cycles", self.cycles.is_some() && !cuts, "--scenario power-cut"),
            ("--seed", self.seed.is_some() && !cuts, "--scenario power-cut"),
            ("--sample", self.sample.is_some() && !flushes, "--scenario flushes"),
            ("--recorded", self.recorded && !flushes, "--scenario flushes"),
            ("--auto", self.auto && name.is_none(), "--scenario"),
            ("--no-build", self.no_build && name.is_none() && !self.vehicle, "--scenario and --vehicle"),
            ("--json", self.json && name.is_none() && !self.smoke, "--smoke and --scenario"),
        ];
        if let Some((flag, _, place)) = misplaced.iter().find(|(_, wrong, _)| *wrong) {
            return Err(Failure::new(format!("{flag} goes with {place} only")));
        }
        Ok(match self.scenario {
            Some(name) => Wish::Scenario(Order {
                name,
                build: !self.no_build,
                json: self.json,
                cycles: usize::try_from(self.cycles.unwrap_or(1)).unwrap_or(usize::MAX),
                seed: self.seed.unwrap_or(1),
                ecus: self.ecus,
                recorded: self.recorded,
                sample: self.sample.map_or(SAMPLE, |sample| usize::try_from(sample).unwrap_or(usize::MAX)),
            }),
            None if self.smoke => Wish::Smoke { json: self.json },
            None if self.vehicle => Wish::Vehicle { build: !self.no_build },
            None if self.inside => Wish::Inside,
            None => Wish::Terminal { fresh: self.fresh },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Wish, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        parse(&words).map_err(|failure| failure.text)
    }

    #[test]
    fn words_become_a_wish() {
        assert_eq!(of(""), Ok(Wish::Terminal { fresh: false }));
        assert_eq!(of("--fresh"), Ok(Wish::Terminal { fresh: true }));
        assert_eq!(of("--json --smoke"), Ok(Wish::Smoke { json: true }));
        assert_eq!(of("--scenario nothing --help"), Ok(Wish::Help));
        assert_eq!(of("--vehicle"), Ok(Wish::Vehicle { build: true }));
        assert_eq!(of("--no-build --vehicle"), Ok(Wish::Vehicle { build: false }));
        let Ok(Wish::Scenario(happy)) = of("--scenario happy --auto --json") else { panic!("a story") };
        assert!(happy.json && happy.build && !happy.ecus);
        let Ok(Wish::Scenario(cuts)) = of("--scenario power-cut --cycles 7 --seed 3 --ecus --no-build") else {
            panic!("a story")
        };
        let Ok(Wish::Scenario(flushes)) = of("--scenario flushes --sample 0 --recorded") else { panic!("a story") };
        assert_eq!((flushes.sample, flushes.recorded), (0, true));
        assert_eq!((cuts.cycles, cuts.seed, cuts.ecus, cuts.build), (7, 3, true, false));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (words, said) in [
            ("--somke", "does not know \"--somke\""),
            ("happy", "does not know \"happy\""),
            ("--scenario", "needs a name"),
            ("--scenario --json", "needs a name"),
            ("--scenario hapy", "no story \"hapy\"; known: happy"),
            ("--scenario power-cut --cycles", "--cycles needs a number behind"),
            ("--scenario power-cut --cycles --seed 1", "--cycles needs a number behind"),
            ("--scenario power-cut --seed one", "not \"one\""),
            ("--scenario happy --ecus", "--ecus goes with --scenario power-cut only"),
            ("--scenario happy --sample 2", "--sample goes with --scenario flushes only"),
            ("--auto", "--auto goes with --scenario only"),
            ("--inside --json", "--json goes with"),
            ("--smoke --inside", "only one of"),
            ("--vehicle --scenario happy", "only one of"),
            ("--vehicle --json", "--json goes with"),
            ("--smoke --no-build", "--no-build goes with --scenario and --vehicle only"),
        ] {
            let refused = of(words).expect_err(words);
            assert!(refused.contains(said), "{words}: {refused}");
        }
    }
}
