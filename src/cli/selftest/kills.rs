//! Death at random moments: `kill -9` again and again, with many mixed runs in flight.

use std::time::Duration;

use tokio::task::JoinSet;

use super::dice::Dice;
use super::report::Report;
use super::site::{Flight, Site};
use crate::error::Result;

const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_millis(1_500);

/// Kills the server `kills` times while `width` runs are in flight, one after another in each place.
pub async fn storm(site: &Site, kills: u32, width: usize, mut dice: Dice, report: &mut Report, told: impl Fn(u32)) -> Result<()> {
    site.world.start(None).await?;
    let (mut tasks, mut flights): (JoinSet<()>, Vec<Flight>) = (JoinSet::new(), Vec::new());
    for number in 1..=kills {
        refill(site, width, &mut dice, &mut tasks, &mut flights);
        let calm = dice.between(SOONEST, LATEST);
        let dies = site.clock.sleep(calm);
        tokio::pin!(dies);
        loop {
            tokio::select! {
                () = &mut dies => break,
                Some(_) = tasks.join_next() => refill(site, width, &mut dice, &mut tasks, &mut flights),
            }
        }
        site.world.kill().await?;
        report.deaths += 1;
        site.world.start(None).await?;
        told(number);
    }
    site.land(&mut tasks).await;
    report.runs += flights.len();
    report.violations.extend(site.judge(&flights).await);
    Ok(())
}

fn refill(site: &Site, width: usize, dice: &mut Dice, tasks: &mut JoinSet<()>, flights: &mut Vec<Flight>) {
    while tasks.len() < width {
        let own = Dice::new(dice.below(u64::MAX));
        let story = site.teller().nth(flights.len(), "kill");
        flights.push(site.fly(story, own, tasks));
    }
}
