//! Calls on virtual time, answered by a script: budgets of hours take no time and replay exactly.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dispatch::clock::{Clock, Timestamp};
use dispatch::net::{Deadlines, Egress, Policy};
use dispatch::provider::{
    Call, Catalogue, ChatRequest, Class, Finish, Message, ModelEvent, Models, Piece, Provider, ProviderCall, ProviderError, RetryPolicy,
    Setup, TenantKeys, Usage,
};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;

type Attempt = Vec<Result<ModelEvent, ProviderError>>;

/// Gives one prepared attempt after the other.
struct Scripted(Mutex<VecDeque<Attempt>>);

impl Provider for Scripted {
    fn wire(&self) -> &'static str {
        "scripted"
    }

    fn stream(&self, _: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        stream::iter(self.0.lock().pop_front().expect("one attempt too many")).boxed()
    }
}

fn failing(class: Class, retry_after: Option<u64>) -> ProviderError {
    let mut error = ProviderError::new(class, "as scripted");
    error.retry_after = retry_after.map(Duration::from_secs);
    error
}

fn text(text: &str) -> Result<ModelEvent, ProviderError> {
    Ok(ModelEvent::Text(text.to_owned()))
}

/// The pieces of a call over these attempts, how it ended, and how long it took.
async fn run(attempts: Vec<Attempt>, candidates: usize) -> (Vec<Piece>, Result<(), ProviderError>, Duration) {
    let clock = Clock::simulated(7, Timestamp::from_millis(1_000));
    let setup = Setup {
        catalogue: Catalogue::built_in().unwrap(),
        env: HashMap::new(),
        egress: Egress::new(Policy::default(), clock.clone()).unwrap(),
        clock: clock.clone(),
        deadlines: Deadlines::default(),
        dev: false,
        default_provider: None,
        aliases: std::collections::BTreeMap::new(),
    };
    let models = Models::new(setup).register(Arc::new(Scripted(Mutex::new(attempts.into()))));
    let model = models.check(&models.resolve("scripted/any").unwrap(), &TenantKeys::default()).unwrap();
    let request = ChatRequest { messages: vec![Message::user("Hello there")], stream: true, ..ChatRequest::default() };
    let retry = RetryPolicy::default();
    let mut stream = models.stream(Call { candidates: vec![model; candidates], request, retry, deadlines: Deadlines::default() });
    let (mut pieces, mut end) = (Vec::new(), Ok(()));
    while let Some(item) = stream.next().await {
        match item {
            Ok(piece) => pieces.push(piece),
            Err(error) => end = Err(error),
        }
    }
    (pieces, end, clock.now().since(Timestamp::from_millis(1_000)))
}

#[tokio::test(start_paused = true)]
async fn long_waits_are_kept_within_the_budget_and_not_beyond() {
    let limited = || vec![Err(failing(Class::RateLimited, Some(400)))];
    let answer = || vec![text("yes"), Ok(ModelEvent::Finish(Finish::EndTurn))];
    let (_, end, took) = run(vec![limited(), limited(), answer()], 1).await;
    assert!(end.is_ok());
    assert_eq!(took, Duration::from_secs(800));
    // A third wait would end after 15 minutes.
    let (_, end, took) = run(vec![limited(), limited(), limited()], 1).await;
    let error = end.unwrap_err();
    assert_eq!((error.attempts.len(), took), (3, Duration::from_secs(800)));
}

#[tokio::test(start_paused = true)]
async fn what_was_shown_is_taken_back_before_anything_new_is_said() {
    let usage = Usage { input: 50, ..Usage::default() };
    let broken = vec![Ok(ModelEvent::Usage(usage)), text("Hel"), Err(failing(Class::Cut, None))];
    let quiet = vec![Ok(ModelEvent::Usage(usage)), Err(failing(Class::Overloaded, None))];
    let answer = vec![text("Good"), text(" day"), Ok(ModelEvent::Finish(Finish::EndTurn))];
    let (pieces, end, _) = run(vec![broken, quiet, answer], 2).await;
    assert!(end.is_ok());
    let kinds: Vec<String> = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Attempt { number, .. } => format!("attempt {number}"),
            Piece::Text(text) => format!("text {text}"),
            Piece::Discarded { number, reason, shown } => format!("discarded {number} {} {shown}", reason.name()),
            Piece::Retrying { number, error, .. } => format!("retrying {number} {}", error.class.name()),
            Piece::Done(completion) => format!("done {} {}", completion.text, completion.attempts.len()),
            other => format!("{other:?}"),
        })
        .collect();
    let expected = [
        "attempt 1",
        "text Hel",
        "discarded 1 cut true",
        "retrying 1 cut",
        "attempt 2",
        "retrying 2 overloaded",
        "attempt 3",
        "text Good",
        "text  day",
        "done Good day 3",
    ];
    assert_eq!(kinds, expected);
    let Some(Piece::Done(done)) = pieces.last() else { panic!("no end") };
    let used: Vec<(u64, u64, bool)> =
        done.attempts.iter().map(|attempt| (attempt.usage.input, attempt.usage.output, attempt.usage.estimated)).collect();
    // The vendor's input and our count of what it said; the vendor's word that it said nothing; our count of all.
    assert_eq!(used, [(50, 1, true), (50, 0, false), (3, 2, true)]);
    assert!(done.cost.unpriced);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_waits_the_same() {
    let attempts = || vec![vec![Err(failing(Class::ServerError, None))]; 5];
    let clone = |error: &ProviderError| error.attempts.iter().map(|attempt| attempt.started_at).collect::<Vec<_>>();
    let (_, one, _) = run(attempts(), 1).await;
    let (_, two, _) = run(attempts(), 1).await;
    assert_eq!(clone(&one.unwrap_err()), clone(&two.unwrap_err()));
}
