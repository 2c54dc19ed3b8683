//! What leaves for people: mails, texts, events.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{flow, refuses, step};
use crate::support::sink::Reply;
use crate::support::smtp::{CUT, REFUSED};
use crate::support::world::{KEY, Node, World};

on_both!(
    mails_go_once,
    services_are_asked_in_their_own_words,
    events_are_told_and_sent,
    what_cannot_be_sent_says_why,
    senders_are_the_operators,
);

fn mail(to: Value) -> Value {
    json!({ "from": "Shop <shop@example.com>", "to": to, "subject": "Order {{n}}", "html": "<p>{{n}}</p>", "text": "{{n}}" })
}

async fn credential(node: &Node, provider: &str, key: &str) {
    node.bare(Method::PUT, &format!("/v1/credentials/{provider}")).bearer(KEY).json(&json!({ "apiKey": key })).ok().await;
}

async fn mails_go_once(world: Arc<World>) {
    let node = world.node();
    let mut body = flow(json!([step("mail", "send-email", mail(json!("ada@example.com, {{other}}")))]));
    body["inputs"] = json!({ "n": 7, "other": "Bob <bob@example.com>" });
    let sent = node.result(&body).await;
    assert_eq!((&sent["result"]["provider"], &sent["result"]["to"][1]), (&json!("smtp"), &json!("Bob <bob@example.com>")), "{sent}");
    let [received] = &world.smtp.received()[..] else { panic!("one mail") };
    assert_eq!(
        (received.from.as_str(), &received.to),
        ("shop@example.com", &vec!["ada@example.com".to_owned(), "bob@example.com".to_owned()])
    );
    assert!(received.text.contains("Subject: Order 7") && received.text.contains("<p>7</p>"), "{}", received.text);
    assert!(received.text.contains(sent["result"]["id"].as_str().unwrap()));
    // Nobody knows whether this one went: the flow waits for somebody's word, and the mail is not sent again.
    let mut body = flow(json!([step("mail", "send-email", mail(json!(CUT)))]));
    body["inputs"] = json!({ "n": 8 });
    let told = node.begin("/v1/dispatch", &body).await;
    let wait = told.custom("dispatch.effect_unknown")["waitId"].clone();
    let node = world.crash().await;
    assert_eq!(world.smtp.received().len(), 2);
    let settle = json!({ "waitId": wait, "outcome": "succeeded", "result": "<it@went>" });
    node.post(&format!("/v1/executions/{}/settle", told.run())).json(&settle).ok().await;
    node.after(&told.run(), told.last().data["seq"].as_u64().unwrap()).await;
    assert_eq!(node.execution(&told.run()).await["output"]["id"], "<it@went>");
    assert_eq!(world.smtp.received().len(), 2);
}

async fn services_are_asked_in_their_own_words(world: Arc<World>) {
    let node = world.node();
    for (provider, key) in [("resend", "re_canary"), ("postmark", "pm_canary"), ("twilio", "AC1:canary-token"), ("telnyx", "KEYcanary")] {
        credential(&node, provider, key).await;
    }
    world.sink.on("/resend/emails", [Reply::json(json!({ "id": "re_1" }))]);
    world.sink.on("/postmark/email", [Reply::json(json!({ "MessageID": "pm_1" }))]);
    world.sink.on("/twilio/2010-04-01/Accounts/AC1/Messages.json", [Reply::status(201, json!({ "sid": "SM1" }))]);
    world.sink.on("/telnyx/v2/messages", [Reply::json(json!({ "data": { "id": "tx_1" } }))]);
    let by = |provider: &str, mut config: Value| {
        config["provider"] = provider.into();
        config
    };
    let text = json!({ "from": "+1", "to": "+49 170", "message": "Order {{n}} & more" });
    let mut body = flow(json!([
        step("resend", "send-email", by("resend", mail(json!(["ada@example.com"])))),
        step("postmark", "send-email", by("postmark", mail(json!(["ada@example.com", "bob@example.com"])))),
        step("twilio", "send-text", by("twilio", text.clone())),
        step("telnyx", "send-text", by("telnyx", text)),
    ]));
    body["inputs"] = json!({ "n": 7 });
    let told = node.dispatch(&body).await;
    for (id, sent) in [("resend", "re_1"), ("postmark", "pm_1"), ("twilio", "SM1"), ("telnyx", "tx_1")] {
        assert_eq!(told.step(id)["result"]["id"], sent, "{}", told.step(id));
    }
    let resend = &world.sink.seen("/resend/emails")[0];
    assert_eq!(resend.header("authorization"), "Bearer re_canary");
    assert!(!resend.header("idempotency-key").is_empty());
    let wanted =
        json!({ "from": "Shop <shop@example.com>", "to": ["ada@example.com"], "subject": "Order 7", "html": "<p>7</p>", "text": "7" });
    assert_eq!(resend.json(), wanted, "what is not given is not sent");
    let postmark = &world.sink.seen("/postmark/email")[0];
    assert_eq!(
        (postmark.header("x-postmark-server-token"), &postmark.json()["To"]),
        ("pm_canary", &json!("ada@example.com, bob@example.com"))
    );
    let twilio = &world.sink.seen("/twilio/2010-04-01/Accounts/AC1/Messages.json")[0];
    assert_eq!(twilio.body, "Body=Order+7+%26+more&From=%2B1&To=%2B49+170");
    assert!(twilio.header("authorization").starts_with("Basic "));
    assert_eq!(world.sink.seen("/telnyx/v2/messages")[0].json()["text"], "Order 7 & more");
}

async fn events_are_told_and_sent(world: Arc<World>) {
    let node = world.node();
    let config = json!({ "eventType": "order.{{what}}", "payload": { "n": "{{n}}" }, "url": world.sink.url("/events") });
    let mut body = flow(json!([step("tell", "send-event", config)]));
    body["inputs"] = json!({ "n": 7, "what": "shipped" });
    world.sink.on("/events", [Reply::status(503, json!({})), Reply::json(json!({}))]);
    body["flow"]["steps"][0]["retry"] = json!({ "maxAttempts": 2, "delayMs": 1 });
    let told = node.dispatch(&body).await;
    assert_eq!(told.step("tell")["result"], json!({ "eventType": "order.shipped", "payload": { "n": 7 } }));
    assert_eq!(told.customs("dispatch.event").count(), 1);
    assert_eq!(told.custom("dispatch.event")["payload"], json!({ "n": 7 }));
    let [first, again] = &world.sink.seen("/events")[..] else { panic!("two tries") };
    assert_eq!((first.header("content-type"), &first.json()["type"]), ("application/cloudevents+json", &json!("order.shipped")));
    assert_eq!((&first.json()["specversion"], &first.json()["data"]), (&json!("1.0"), &json!({ "n": 7 })));
    assert_eq!(first.json(), again.json(), "the same event, by its id and its time");
}

async fn what_cannot_be_sent_says_why(world: Arc<World>) {
    let node = world.node();
    for (kind, config, code) in [
        ("send-email", mail(json!(REFUSED)), "mail_not_sent"),
        ("send-email", mail(json!("no address")), "mail_not_sent"),
        ("send-email", mail(json!("{{nobody}}")), "invalid_mail"),
        ("send-email", json!({ "to": "a@b.example", "subject": "x", "text": "x" }), "invalid_mail"),
        (
            "send-email",
            json!({ "from": "a@b.example", "to": "a@b.example", "subject": "x", "text": "x", "provider": "resend" }),
            "service_not_configured",
        ),
        ("send-text", json!({ "from": "+1", "to": "+2", "message": "x" }), "service_not_configured"),
        ("send-text", json!({ "from": "+1", "to": "+2", "message": "x", "provider": "pigeon" }), "unknown_service"),
        ("send-text", json!({ "from": "+1", "to": "+2", "message": "{{nothing}}" }), "invalid_text_message"),
        ("send-event", json!({ "eventType": "{{nothing}}" }), "invalid_event"),
    ] {
        let told = node.dispatch(&flow(json!([step("out", kind, config.clone())]))).await;
        assert_eq!(told.step("out")["code"], code, "{config}: {}", told.step("out"));
    }
    assert!(world.smtp.received().is_empty());
    let wrong: [(&str, Value, &[&str]); 3] = [
        ("send-email", json!({ "to": "a@b.example", "subject": "x" }), &["html"]),
        ("send-email", json!({ "to": "a@b.example", "subject": "{{secrets.x}}", "text": "x" }), &["subject"]),
        ("send-event", json!({ "eventType": "x", "url": "http://h/{{" }), &["url"]),
    ];
    refuses(&node, &wrong).await;
}

async fn senders_are_the_operators(world: Arc<World>) {
    world.configure(|config| config.mail_from = Some("Dispatch <no-reply@shop.example>".into()));
    let node = world.crash().await;
    let from = |from: Value| {
        flow(json!([step("out", "send-email", json!({ "from": from, "to": "ada@example.com", "subject": "x", "text": "x" }))]))
    };
    let told = node.dispatch(&from(json!("boss@bank.example"))).await;
    assert_eq!(told.step("out")["code"], "sender_not_allowed");
    for own in [json!(null), json!("sales@shop.example")] {
        assert_eq!(node.dispatch(&from(own)).await.last().data["success"], true);
    }
    let received = world.smtp.received();
    let senders: Vec<&str> = received.iter().map(|mail| mail.from.as_str()).collect();
    assert_eq!(senders, ["no-reply@shop.example", "sales@shop.example"]);
}
