//! Blows at random moments, `kill -9` before all, again and again, with many mixed runs in flight.

use std::time::Duration;

use tokio::task::JoinSet;

use super::blows::Blow;
use super::dice::Dice;
use super::report::Report;
use super::site::{Flight, Site};
use crate::error::Result;

const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_millis(1_500);

/// What comes over a site.
pub struct Storm<'a> {
    /// Dealt in turn.
    pub blows: &'a [Blow],
    pub count: u32,
    /// Runs in flight, one after another in each place.
    pub width: usize,
}

impl Storm<'_> {
    pub async fn rage(&self, site: &Site, mut dice: Dice, report: &mut Report, told: impl Fn(u32)) -> Result<()> {
        for server in site.servers() {
            server.start(None).await?;
        }
        let (mut tasks, mut flights): (JoinSet<()>, Vec<Flight>) = (JoinSet::new(), Vec::new());
        for (number, blow) in (1..=self.count).zip(self.blows.iter().cycle()) {
            let calm = dice.between(SOONEST, LATEST);
            let mut own = Dice::new(dice.below(u64::MAX));
            let strikes = async {
                site.clock.sleep(calm).await;
                blow.deal(site, &mut own).await
            };
            tokio::pin!(strikes);
            loop {
                refill(site, self.width, &mut dice, &mut tasks, &mut flights);
                tokio::select! {
                    over = &mut strikes => break over?,
                    Some(_) = tasks.join_next() => {}
                }
            }
            report.deal(*blow);
            told(number);
        }
        site.land(&mut tasks).await;
        report.runs += flights.len();
        report.violations.extend(site.judge(&flights).await);
        Ok(())
    }
}

fn refill(site: &Site, width: usize, dice: &mut Dice, tasks: &mut JoinSet<()>, flights: &mut Vec<Flight>) {
    while tasks.len() < width {
        let own = Dice::new(dice.below(u64::MAX));
        let story = site.teller().nth(flights.len(), "kill");
        flights.push(site.fly(story, own, tasks));
    }
}
