//! Authentication (29) by certificate and proof of ownership, one way (ISO 14229-1:2020, 10.6, APCE unidirectional): the client shows a
//! certificate (01), the server answers with a challenge, the client signs it (03).
//!
//! The machine keeps the order, the challenge's single use and its time, for each client on its own: what one does wrong closes nothing
//! for another. What a certificate is worth is the [`Judge`]'s.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{AuthenticationAnswer, ClientId};
use crate::{Monotonic, Nrc, Request};

/// Clients of whom something is kept, at most: as many as a DoIP entity here ever lets in, and each has shown a certificate of some KiB.
const CLIENTS: usize = 16;

// authenticationReturnParameter, ISO 14229-1:2020, annex B.5.
const CONFIGURATION_APCE: u8 = 0x02;
const DEAUTHENTICATED: u8 = 0x10;
const CERTIFICATE_VERIFIED: u8 = 0x11;
const COMPLETE: u8 = 0x12;

/// Times and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticatorSettings {
    /// How long a challenge may be answered. 30 s: a signature made by a server at the maker's, over a slow line.
    pub challenge: Duration,
    /// How long an authentication lasts at most, whatever the session does. 4 h: a large package over a slow cable, and its verification.
    pub lifetime: Duration,
    /// Certificates or proofs of one client that may fail in a row. 5.
    pub failures: u8,
    /// After too many failures nothing of this client's is judged for this long. 10 s, as for keys (27): each costs the server some milliseconds.
    pub pause: Duration,
}

impl Default for AuthenticatorSettings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { challenge: seconds(30), lifetime: seconds(4 * 3600), failures: 5, pause: seconds(10) }
    }
}

/// Knows certificates and randomness.
pub trait Judge {
    /// What is kept of a certificate that is good: its key, and who it is.
    type Credential;

    /// Judges a certificate now. `Err`: one of 0x50 to 0x57.
    fn certificate(&mut self, certificate: &[u8]) -> Result<Self::Credential, Nrc>;

    /// Makes a challenge that was never given before. `Err(ChallengeCalculationFailed)` where there is no randomness.
    fn challenge(&mut self) -> Result<Vec<u8>, Nrc>;

    /// Whether `proof` is the credential's signature over `challenge`.
    fn proves(&mut self, credential: &Self::Credential, challenge: &[u8], proof: &[u8]) -> bool;
}

/// A challenge that waits for its one answer.
#[derive(Debug)]
struct Challenged<C> {
    credential: C,
    challenge: Vec<u8>,
    until: Monotonic,
}

/// How far one client has come.
#[derive(Debug)]
struct Attempt<C> {
    challenged: Option<Challenged<C>>,
    failures: u8,
    closed_until: Option<Monotonic>,
}

/// The server's half of Authentication (29).
#[derive(Debug)]
pub struct Authenticator<C> {
    settings: AuthenticatorSettings,
    attempts: BTreeMap<ClientId, Attempt<C>>,
}

impl<C> Authenticator<C> {
    pub const fn new(settings: AuthenticatorSettings) -> Self {
        Self { settings, attempts: BTreeMap::new() }
    }

    /// Forgets a client that has left.
    pub fn client_gone(&mut self, client: ClientId) {
        self.attempts.remove(&client);
    }

    /// Answers one request of service 29; whoever authenticates is the second value.
    pub fn handle(
        &mut self,
        now: Monotonic,
        client: ClientId,
        request: &Request,
        judge: &mut impl Judge<Credential = C>,
    ) -> (Result<AuthenticationAnswer, Nrc>, Option<C>) {
        match request {
            Request::AuthenticationConfiguration => (Ok(answer(0x08, CONFIGURATION_APCE, &[], None)), None),
            Request::DeAuthenticate => {
                if let Some(attempt) = self.attempts.get_mut(&client) {
                    attempt.challenged = None;
                }
                (Ok(answer(0x00, DEAUTHENTICATED, &[], Some(false))), None)
            }
            Request::VerifyCertificate { configuration, certificate, .. } => {
                let result = self.take_certificate(now, client, *configuration, certificate, judge);
                (self.counted(now, client, result), None)
            }
            Request::ProofOfOwnership { proof, .. } => match self.take_proof(now, client, proof, judge) {
                Ok(credential) => {
                    self.attempts.remove(&client);
                    let until = Some(now + self.settings.lifetime);
                    (Ok(AuthenticationAnswer { until, ..answer(0x03, COMPLETE, &[&[]], Some(true)) }), Some(credential))
                }
                Err(nrc) => (self.counted(now, client, Err(nrc)), None),
            },
            // Both ways, and by challenge and response: not served.
            _ => (Err(Nrc::SubFunctionNotSupported), None),
        }
    }

    fn take_certificate(
        &mut self,
        now: Monotonic,
        client: ClientId,
        configuration: u8,
        certificate: &[u8],
        judge: &mut impl Judge<Credential = C>,
    ) -> Result<AuthenticationAnswer, Nrc> {
        if self.attempts.len() >= CLIENTS && !self.attempts.contains_key(&client) {
            return Err(Nrc::ConditionsNotCorrect);
        }
        let new = || Attempt { challenged: None, failures: 0, closed_until: None };
        let attempt = self.attempts.entry(client).or_insert_with(new);
        // A new attempt ends the one before.
        attempt.challenged = None;
        if attempt.closed_until.is_some_and(|until| now < until) {
            return Err(Nrc::ConditionsNotCorrect);
        }
        if configuration != 0 {
            // No secured transmission (84) is offered.
            return Err(Nrc::ConfigurationDataUsageFailed);
        }
        let credential = judge.certificate(certificate)?;
        let challenge = judge.challenge()?;
        let answer = answer(0x01, CERTIFICATE_VERIFIED, &[&challenge, &[]], None);
        let until = now + self.settings.challenge;
        attempt.challenged = Some(Challenged { credential, challenge, until });
        Ok(answer)
    }

    fn take_proof(
        &mut self,
        now: Monotonic,
        client: ClientId,
        proof: &[u8],
        judge: &mut impl Judge<Credential = C>,
    ) -> Result<C, Nrc> {
        // Whatever comes of it, the challenge is used up: nothing that was heard on the wire is of use again.
        let challenged = self.attempts.get_mut(&client).and_then(|attempt| attempt.challenged.take());
        let challenged = challenged.ok_or(Nrc::RequestSequenceError)?;
        if challenged.until <= now {
            return Err(Nrc::RequestSequenceError);
        }
        if !judge.proves(&challenged.credential, &challenged.challenge, proof) {
            return Err(Nrc::OwnershipVerificationFailed);
        }
        Ok(challenged.credential)
    }

    fn counted(
        &mut self,
        now: Monotonic,
        client: ClientId,
        result: Result<AuthenticationAnswer, Nrc>,
    ) -> Result<AuthenticationAnswer, Nrc> {
        let failed = result.as_ref().is_err_and(|nrc| (0x50..=0x58).contains(&nrc.code()));
        if let Some(attempt) = self.attempts.get_mut(&client).filter(|_| failed) {
            attempt.failures = attempt.failures.saturating_add(1);
            if attempt.failures >= self.settings.failures {
                attempt.failures = 0;
                attempt.closed_until = Some(now + self.settings.pause);
            }
        }
        result
    }
}

/// `task`, return parameter, then each field with its length in two bytes.
fn answer(task: u8, parameter: u8, fields: &[&[u8]], authenticated: Option<bool>) -> AuthenticationAnswer {
    let mut bytes = vec![task, parameter];
    for field in fields {
        let length = u16::try_from(field.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_be_bytes());
        bytes.extend(field.iter().take(usize::from(length)));
    }
    AuthenticationAnswer { answer: bytes, authenticated, until: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A certificate is `[who]`; a proof is the challenge backwards with `who` behind it.
    #[derive(Default)]
    struct Notary {
        challenges: u8,
    }

    impl Judge for Notary {
        type Credential = u8;

        fn certificate(&mut self, certificate: &[u8]) -> Result<u8, Nrc> {
            match certificate {
                [who] => Ok(*who),
                [] => Err(Nrc::CertificateInvalidFormat),
                _ => Err(Nrc::CertificateInvalidChainOfTrust),
            }
        }

        fn challenge(&mut self) -> Result<Vec<u8>, Nrc> {
            self.challenges += 1;
            Ok(vec![7, self.challenges])
        }

        fn proves(&mut self, who: &u8, challenge: &[u8], proof: &[u8]) -> bool {
            proof == signed(challenge, *who)
        }
    }

    fn signed(challenge: &[u8], who: u8) -> Vec<u8> {
        challenge.iter().rev().copied().chain([who]).collect()
    }

    struct Bench {
        machine: Authenticator<u8>,
        notary: Notary,
        now: Monotonic,
    }

    const ME: ClientId = ClientId(1);
    const OTHER: ClientId = ClientId(2);

    impl Bench {
        fn new() -> Self {
            let machine = Authenticator::new(AuthenticatorSettings::default());
            Self { machine, notary: Notary::default(), now: Duration::ZERO }
        }

        fn ask(&mut self, client: ClientId, request: &Request) -> Result<Vec<u8>, Nrc> {
            self.machine.handle(self.now, client, request, &mut self.notary).0.map(|answer| answer.answer)
        }

        fn show(&mut self, client: ClientId, certificate: &[u8]) -> Result<Vec<u8>, Nrc> {
            let certificate = certificate.to_vec();
            let answer =
                self.ask(client, &Request::VerifyCertificate { configuration: 0, certificate, challenge: vec![] })?;
            assert_eq!((answer[..4].to_vec(), answer[6..].to_vec()), (vec![1, 0x11, 0, 2], vec![0, 0]));
            Ok(answer[4..6].to_vec())
        }

        fn prove(&mut self, client: ClientId, proof: Vec<u8>) -> Result<Vec<u8>, Nrc> {
            self.ask(client, &Request::ProofOfOwnership { proof, ephemeral_key: vec![] })
        }
    }

    #[test]
    fn certificate_then_proof_authenticates_for_a_limited_time() {
        let mut bench = Bench::new();
        let challenge = bench.show(ME, &[9]).unwrap();
        let request = Request::ProofOfOwnership { proof: signed(&challenge, 9), ephemeral_key: vec![] };
        let (answer, who) = bench.machine.handle(bench.now, ME, &request, &mut bench.notary);
        let until = Some(AuthenticatorSettings::default().lifetime);
        let answer = answer.unwrap();
        assert_eq!((answer.answer, answer.authenticated, answer.until), (vec![3, 0x12, 0, 0], Some(true), until));
        assert_eq!(who, Some(9));
    }

    #[test]
    fn a_challenge_is_for_one_client_one_answer_and_half_a_minute() {
        let mut bench = Bench::new();
        assert_eq!(bench.prove(ME, vec![1]), Err(Nrc::RequestSequenceError), "none was given");
        let challenge = bench.show(ME, &[9]).unwrap();
        assert_eq!(bench.prove(OTHER, signed(&challenge, 9)), Err(Nrc::RequestSequenceError), "overheard");
        assert_eq!(bench.prove(ME, signed(&challenge, 8)), Err(Nrc::OwnershipVerificationFailed));
        assert_eq!(bench.prove(ME, signed(&challenge, 9)), Err(Nrc::RequestSequenceError), "no second try");
        let challenge = bench.show(ME, &[9]).unwrap();
        assert!(bench.prove(ME, signed(&challenge, 9)).is_ok());
        assert_eq!(bench.prove(ME, signed(&challenge, 9)), Err(Nrc::RequestSequenceError), "replayed");
        let old = bench.show(ME, &[9]).unwrap();
        let new = bench.show(ME, &[9]).unwrap();
        assert_ne!(old, new);
        assert_eq!(bench.prove(ME, signed(&old, 9)), Err(Nrc::OwnershipVerificationFailed), "an older challenge");
        let late = bench.show(ME, &[9]).unwrap();
        bench.now += Duration::from_secs(30);
        assert_eq!(bench.prove(ME, signed(&late, 9)), Err(Nrc::RequestSequenceError), "late");
    }

    #[test]
    fn too_many_failures_close_it_for_a_while() {
        let mut bench = Bench::new();
        for _ in 0..5 {
            assert_eq!(bench.show(ME, &[1, 2]), Err(Nrc::CertificateInvalidChainOfTrust));
        }
        assert_eq!(bench.show(ME, &[9]), Err(Nrc::ConditionsNotCorrect));
        bench.now += Duration::from_secs(10);
        assert!(bench.show(ME, &[9]).is_ok());
    }

    #[test]
    fn a_stranger_neither_closes_it_for_a_tester_nor_takes_its_challenge() {
        let mut bench = Bench::new();
        let challenge = bench.show(ME, &[9]).unwrap();
        for _ in 0..5 {
            assert_eq!(bench.show(OTHER, &[1, 2]), Err(Nrc::CertificateInvalidChainOfTrust));
        }
        assert_eq!(bench.show(OTHER, &[9]), Err(Nrc::ConditionsNotCorrect));
        assert!(bench.ask(OTHER, &Request::DeAuthenticate).is_ok());
        assert_eq!(bench.prove(OTHER, vec![1]), Err(Nrc::RequestSequenceError));
        assert!(bench.prove(ME, signed(&challenge, 9)).is_ok());
        assert!(bench.show(ME, &[9]).is_ok());
    }

    #[test]
    fn what_is_kept_of_clients_is_bounded_and_goes_with_them() {
        let mut bench = Bench::new();
        for client in 0..CLIENTS as u64 {
            assert!(bench.show(ClientId(client), &[9]).is_ok());
        }
        let late = ClientId(100);
        assert_eq!(bench.show(late, &[9]), Err(Nrc::ConditionsNotCorrect));
        bench.machine.client_gone(ClientId(3));
        let challenge = bench.show(late, &[9]).unwrap();
        assert_eq!(bench.prove(ClientId(3), signed(&challenge, 9)), Err(Nrc::RequestSequenceError));
        assert!(bench.prove(late, signed(&challenge, 9)).is_ok());
        assert_eq!(bench.machine.attempts.len(), CLIENTS - 1, "who has proved it needs no more");
    }

    #[test]
    fn the_rest_of_the_service_says_what_it_is() {
        let mut bench = Bench::new();
        assert_eq!(bench.ask(ME, &Request::AuthenticationConfiguration), Ok(vec![8, 2]));
        assert_eq!(bench.ask(ME, &Request::DeAuthenticate), Ok(vec![0, 0x10]));
        let both = Request::Authentication { task: 2, data: vec![0; 8] };
        assert_eq!(bench.ask(ME, &both), Err(Nrc::SubFunctionNotSupported));
        let secured = Request::VerifyCertificate { configuration: 1, certificate: vec![9], challenge: vec![] };
        assert_eq!(bench.ask(ME, &secured), Err(Nrc::ConfigurationDataUsageFailed));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Show(u64, Vec<u8>),
        /// Sign the newest challenge that this client was ever given.
        Prove(u64, u8),
        Repeat(u64),
        DeAuthenticate(u64),
        Leave(u64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..3_u64, prop::collection::vec(8..10_u8, 0..3)).prop_map(|(client, bytes)| Step::Show(client, bytes)),
            (1..3_u64, 8..10_u8).prop_map(|(client, who)| Step::Prove(client, who)),
            (1..3_u64).prop_map(Step::Repeat),
            (1..3_u64).prop_map(Step::DeAuthenticate),
            (1..3_u64).prop_map(Step::Leave),
            (0..40_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: who is let in has shown a certificate just before, on the same connection, and has signed
        /// the very challenge that answered it, once. What the other does changes nothing.
        #[test]
        fn nobody_gets_in_any_other_way(steps in prop::collection::vec(step(), 0..40)) {
            let mut bench = Bench::new();
            // Of each client: the credential and challenge that are open, and all proofs ever sent.
            let mut open: std::collections::BTreeMap<u64, (u8, Vec<u8>, Monotonic)> = Default::default();
            let mut last: std::collections::BTreeMap<u64, Vec<u8>> = Default::default();
            let mut sent: Vec<u8> = Vec::new();
            for step in steps {
                let (client, proof) = match step {
                    Step::Show(client, certificate) => {
                        open.remove(&client);
                        if let Ok(challenge) = bench.show(ClientId(client), &certificate) {
                            last.insert(client, challenge.clone());
                            open.insert(client, (certificate[0], challenge, bench.now));
                        }
                        continue;
                    }
                    Step::DeAuthenticate(client) => {
                        open.remove(&client);
                        prop_assert!(bench.ask(ClientId(client), &Request::DeAuthenticate).is_ok());
                        continue;
                    }
                    Step::Leave(client) => {
                        open.remove(&client);
                        bench.machine.client_gone(ClientId(client));
                        continue;
                    }
                    Step::Wait(seconds) => {
                        bench.now += Duration::from_secs(seconds);
                        continue;
                    }
                    Step::Prove(client, who) => {
                        (client, last.get(&client).map(|challenge| signed(challenge, who)).unwrap_or_default())
                    }
                    Step::Repeat(client) => (client, sent.clone()),
                };
                sent.clone_from(&proof);
                let right = open.remove(&client).is_some_and(|(who, challenge, at)| {
                    proof == signed(&challenge, who) && bench.now < at + Duration::from_secs(30)
                });
                prop_assert_eq!(bench.prove(ClientId(client), proof).is_ok(), right);
            }
        }
    }
}
