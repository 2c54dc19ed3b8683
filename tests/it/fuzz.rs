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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let files = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    for target in files(&folder.join("fuzz_targets")) {
        let name = target.file_stem().unwrap().to_str().unwrap();
        let seeds = files(&folder.join("seeds").join(name));
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for path in seeds {
            let began = clock.instant();
            entry::feed(name, &fs::read(&path).unwrap());
            assert!(began.elapsed() < LIMIT, "{} took {:?}", path.display(), began.elapsed());
        }
    }
}
