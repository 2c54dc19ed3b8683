//! `dispatch demo`.

use super::ran::Shell;

#[test]
fn it_shows_a_stream_an_approval_and_a_restart_and_leaves_nothing_behind() {
    let shell = Shell::new();
    insta::assert_snapshot!(shell.run(&["demo"]), @r#"
    exit 0
    --- stdout
    A Dispatch server listens on http://127.0.0.1:[port], with no key and no network.

    1. The flow of POST /v1/dispatch, streamed

    Sales Analysis  1 step  exec_[id]
    ▸ Analyze Sales Performance  prompt
      │ local/echo answers for openai/gpt-4: it needs no key
      │ Echo:
      │ 
      │ Analyze the sales performance for Q4 2024 in North America.
      │ 
      │ Record metadata:
      │ - quarter: Q4 2024
      │ - region: North America
      │ - sales_team: Team Alpha
      │ - total_revenue: $2.5M
      │ - growth_rate: 18%
      │ - top_products: ["Product A","Product B","Product C"]
    ✓ Analyze Sales Performance  [time] · 123 tokens · $0.00
    done  1 step · [time] · 123 tokens · $0.00

    2. A tool that needs an approval

    Refund with approval  1 step  exec_[id]
    ▸ Decide about the refund  prompt
      ? refund asks for approval
        order   "1042"
        amount  39.9
        “The carrier lost the parcel.”
      (the server was restarted meanwhile; now http://127.0.0.1:[port])
      approved by the demo itself: nobody sits at a terminal
      │ approved
      │ → refund {"order":"1042","amount":39.9}
      │ ← refund {"order":"1042","refunded":39.9,"receipt":"R-1042"}  [time]
      │ refund answered: {"order":"1042","refunded":39.9,"receipt":"R-1042"}
    ✓ Decide about the refund  [time] · 311 tokens · $0.00
    done  1 step · [time] · 311 tokens · $0.00

    That was 2 executions and 1 restart in [time]. Try next:

      dispatch serve --dev
          a server that stays; it prints an API key once

      curl -N http://127.0.0.1:[port]/v1/dispatch \
        -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
        -d '{"flow": {"name": "Hello", "steps": [{"name": "Greet", "type": "prompt",
             "config": {"model": "local/echo", "userPrompt": "Hello from {{place}}"}}]}, "inputs": {"place": "Oslo"}}'

      dispatch run FILE --dev       the same from a file, with no server
      dispatch schema prompt        what a step can be told
      OPENAI_API_KEY=... dispatch serve    real models: ANTHROPIC_API_KEY and GEMINI_API_KEY work alike
    "#);
    assert_eq!(std::fs::read_dir(shell.folder.path()).unwrap().count(), 0);
}

#[test]
fn its_envelope_holds_both_executions() {
    let shell = Shell::new();
    let envelope = shell.json(&["demo"]);
    let executions = envelope["executions"].as_array().unwrap();
    assert_eq!(executions.len(), 2);
    assert!(executions.iter().all(|execution| execution["success"] == true && execution["status"] == "completed"), "{envelope}");
    let said = |index: usize| executions[index]["finalOutput"].as_str().unwrap();
    assert!(said(0).contains("Analyze the sales performance for Q4 2024 in North America."), "{}", said(0));
    assert!(said(1).contains("R-1042"), "{}", said(1));
}
