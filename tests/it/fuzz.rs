//! The seeds of the fuzz targets, and every input that once broke one, through the functions that are fuzzed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dispatch::clock::Clock;

#[path = "../../fuzz/entry.rs"]
mod entry;

/// What no input may take, also on a slow machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn seeds_and_old_faults_pass() {
    let clock = Clock::system();
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, target) in entry::ALL_TARGETS {
        let mut count = 0;
        for file in fs::read_dir(seeds.join(name)).unwrap_or_else(|error| panic!("{name} has no seeds: {error}")) {
            let path = file.unwrap().path();
            let began = clock.instant();
            target(&fs::read(&path).unwrap());
            assert!(began.elapsed() < LIMIT, "{} took {:?}", path.display(), began.elapsed());
            count += 1;
        }
        assert!(count > 0, "{name} has no seeds");
    }
}
