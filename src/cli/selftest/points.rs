//! Death at every named point: armed, reached, died, started again, everything driven to its end.

use std::time::Duration;

use tokio::task::JoinSet;

use super::dice::Dice;
use super::report::Report;
use super::site::{Flight, PATIENCE, Site};
use super::told::{Breach, Violation};
use super::world::{Began, SHRINKING};
use crate::error::Result;

/// How long a server may live before its point counts as not reached.
const REACH: Duration = Duration::from_secs(15);

/// What must happen besides the workload for a point to be reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prelude {
    None,
    /// An earlier server dies in the middle of the work.
    Death,
    /// The server is asked to stop in the middle of the work.
    Stop,
}

fn prelude(point: &str) -> Prelude {
    match point {
        _ if point.starts_with("run.recover.") => Prelude::Death,
        _ if point.starts_with("run.release.") => Prelude::Stop,
        _ => Prelude::None,
    }
}

/// Points that are reached often enough in one workload for the later times to be worth a death, too.
fn often(point: &str) -> bool {
    ["run.commit.", "store.group.", "step.", "effect.before", "effect.after", "effect.recorded", "event.", "tool.", "model.middle"]
        .iter()
        .any(|start| point.starts_with(start))
}

/// Points that only a run that lasts a while is sure to reach.
fn lasts(point: &str) -> bool {
    prelude(point) != Prelude::None || point.starts_with("run.renew.") || point.starts_with(SHRINKING)
}

/// Walks one point.
pub async fn walk(site: &Site, point: &str, dice: &mut Dice, report: &mut Report) -> Result<()> {
    let nth = if often(point) { 1 + dice.below(6) } else { 1 };
    let armed = format!("{point}:{nth}");
    let (mut tasks, mut flights) = (JoinSet::new(), Vec::new());
    let kind = prelude(point);
    if kind == Prelude::Death {
        site.world.start(None).await?;
        take_off(site, point, dice, &mut tasks, &mut flights);
        site.busy(point).await;
        site.world.kill().await?;
        report.deaths += 1;
    }
    let mut reached = site.world.start(Some(&armed)).await? == Began::Died;
    if !reached {
        if flights.is_empty() {
            take_off(site, point, dice, &mut tasks, &mut flights);
        }
        if kind == Prelude::Stop {
            site.busy(point).await;
            site.world.terminate().await?;
        }
        tokio::select! {
            died = site.world.gone() => reached = died?,
            () = async { while tasks.join_next().await.is_some() {} } => {
                // The last of it may still be on its way, as the end of a commit is.
                tokio::select! {
                    died = site.world.gone() => reached = died?,
                    () = site.clock.sleep(Duration::from_secs(1)) => {}
                }
            }
            () = site.clock.sleep(REACH) => {}
        }
    }
    if reached {
        report.points += 1;
        report.deaths += 1;
    } else {
        let what = "the server lived through the whole workload".to_owned();
        report.violations.push(Violation { breach: Breach::Unreached, about: armed.clone(), what });
        site.world.kill().await?;
    }
    site.world.start(None).await?;
    if flights.is_empty() {
        take_off(site, point, dice, &mut tasks, &mut flights);
    }
    site.land(&mut tasks).await;
    report.runs += flights.len();
    let violations = site.judge(&flights).await;
    report
        .violations
        .extend(violations.into_iter().map(|violation| Violation { about: format!("{armed}: {}", violation.about), ..violation }));
    site.world.kill().await?;
    report.deaths += 1;
    Ok(())
}

fn take_off(site: &Site, point: &str, dice: &mut Dice, tasks: &mut JoinSet<()>, flights: &mut Vec<Flight>) {
    let slow = lasts(point).then(|| site.teller().slow(point));
    for story in site.teller().each(point).into_iter().chain(slow) {
        let own = Dice::new(dice.below(u64::MAX));
        flights.push(site.fly(story, own, tasks));
    }
    debug_assert!(PATIENCE > REACH);
}
