//! The diagnosis of databases that are set up right or wrong.

use std::path::Path;

use dispatch::clock::Clock;
use dispatch::store::examine::{Finding, Verdict, examine};
use dispatch::store::sqlite::SqliteStore;

use super::pooler::Pooler;
use super::site::{Database, Schema};

async fn findings(url: &str) -> Vec<Finding> {
    examine(url, &Clock::system()).await
}

async fn of_file(path: &Path) -> Vec<Finding> {
    findings(&format!("sqlite://{}", path.display())).await
}

/// Returns the names of the checks with this verdict.
fn checks(findings: &[Finding], verdict: Verdict) -> Vec<&str> {
    findings.iter().filter(|finding| finding.verdict == verdict).map(|finding| finding.check).collect()
}

fn message<'f>(findings: &'f [Finding], check: &str) -> &'f str {
    &findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check} in {findings:?}")).message
}

#[tokio::test]
async fn an_intact_file_passes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = SqliteStore::open_alone(&path).await.unwrap();
    dispatch::store::Store::close(&store).await;
    drop(store);
    let found = of_file(&path).await;
    assert!(checks(&found, Verdict::Bad).is_empty(), "{found:?}");
    assert!(message(&found, "migrations").contains("up to date"), "{found:?}");
    assert!(message(&found, "server").contains("no server"), "{found:?}");
}

#[tokio::test]
async fn faults_of_a_file_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let found = of_file(&path).await;
    assert_eq!(checks(&found, Verdict::Bad), ["file"]);
    assert!(!path.exists(), "nothing is made");
    std::fs::write(&path, "no database at all, and nothing that could be taken for one".repeat(100)).unwrap();
    let found = of_file(&path).await;
    assert_eq!(checks(&found, Verdict::Bad), ["integrity"], "{found:?}");
}

#[tokio::test]
async fn an_invalid_address_is_not_shown() {
    for wrong in ["mysql://root:secret@host/db", "postgres://u:secret@[broken", "dispatch.db"] {
        let found = findings(wrong).await;
        assert_eq!(checks(&found, Verdict::Bad), ["address"], "{wrong}");
        assert!(!format!("{found:?}").contains("secret"));
    }
    let found = findings("postgres://nobody:secret@127.0.0.1:1/none?sslmode=disable").await;
    assert_eq!(checks(&found, Verdict::Bad), ["reachable"]);
    assert!(!format!("{found:?}").contains("secret"));
}

#[tokio::test]
async fn a_healthy_server_passes() {
    let schema = Schema::create().await;
    let empty = findings(&schema.url()).await;
    schema.open().await.close().await;
    let served = findings(&schema.url()).await;
    schema.remove().await;
    for found in [&empty, &served] {
        assert!(checks(found, Verdict::Bad).is_empty(), "{found:?}");
        assert_eq!(found.len(), 9, "{found:?}");
    }
    assert!(message(&empty, "migrations").contains("is empty") && message(&served, "migrations").contains("up to date"));
}

#[tokio::test]
async fn faults_of_a_server_are_reported() {
    let schema = Schema::create().await;
    let pooler = Pooler::start(schema.host()).await;
    let found = findings(&schema.url_through(pooler.port())).await;
    schema.remove().await;
    assert_eq!(checks(&found, Verdict::Bad), ["pooler"], "{found:?}");
    let database = Database::create("encoding 'LATIN1' locale 'C' template template0").await;
    database.alter("set default_transaction_read_only = on").await;
    database.alter("set default_transaction_isolation = serializable").await;
    let found = findings(&database.url()).await;
    database.remove().await;
    let bad = checks(&found, Verdict::Bad);
    assert!(bad.contains(&"encoding") && bad.contains(&"writes"), "{found:?}");
    assert!(message(&found, "isolation").starts_with("serializable"), "{found:?}");
}
