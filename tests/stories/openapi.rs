//! The API as its document says it is: schemathesis makes requests up from the document that the server serves, good
//! ones and bad ones, and holds each answer against it.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Value, json};
use threepid_tests::peers::{Schemathesis, SmsGateway, SmtpServer};
use threepid_tests::server::Server;

use crate::Story;

const SECRET: &str = "secret-of-alice";
/// The seed of tests/run, so that the same run finds the same; `SCHEMATHESIS_SEED` takes another.
const SEED: &str = "20240229";
/// How many requests the fuzzer makes up for each operation; `SCHEMATHESIS_EXAMPLES` takes another.
const EXAMPLES: &str = "40";

/// Nobody else is asked here, so no answer may be excused as another server's refusal.
fn without_refusals_of_others(document: &mut Value) {
    document["components"]["schemas"]["PassedOnCode"] = json!({ "not": {} });
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for operation in paths.flat_map(|(_, methods)| methods.as_object_mut().into_iter().flatten()) {
        if let Some(responses) = operation.1["responses"].as_object_mut() {
            responses.retain(|_, response| response["$ref"] != "#/components/responses/PassedOn");
        }
    }
}

/// Bodies that name what is really there, for schemathesis to begin with.
fn examples(document: &mut Value, sid: &str) {
    let proof = json!({ "sid": sid, "client_secret": SECRET });
    let contacts = "/_matrix/client/{version}/account/3pid";
    for (path, body) in [
        (contacts.to_owned(), json!({ "three_pid_creds": proof })),
        (
            format!("{contacts}/msisdn/requestToken"),
            json!({ "client_secret": SECRET, "country": "GB", "phone_number": "07700 900813", "send_attempt": 1 }),
        ),
        (format!("{contacts}/add"), proof.clone()),
        (format!("{contacts}/delete"), json!({ "medium": "email", "address": "alice@example.org" })),
        (
            "/_threepid/submit_token".to_owned(),
            json!({ "sid": sid, "client_secret": SECRET, "token": "wrong" }),
        ),
    ] {
        let content = &mut document["paths"][path]["post"]["requestBody"]["content"]["application/json"];
        content["example"] = body;
    }
}

/// How many answers of the API came with each status, as the log tells it.
fn statuses(log: &str) -> Result<BTreeMap<String, u32>, regex::Error> {
    let status = Regex::new(r"answered.*?\bstatus\W+(\d{3})\b")?;
    let mut statuses = BTreeMap::new();
    for found in log.lines().filter_map(|line| status.captures(line)) {
        *statuses.entry(found[1].to_owned()).or_default() += 1;
    }
    Ok(statuses)
}

#[tokio::test]
async fn no_request_that_a_fuzzer_makes_up_is_answered_other_than_the_document_says() -> Story {
    let (smtp, gateway) = (SmtpServer::start().await?, SmsGateway::start().await?);
    let server = Server::builder().mail_to(&smtp).sms_to(&gateway).start().await?;
    let alice = server.account("@alice:example.org").await?;
    let sid = server.prove(&smtp, "alice@example.org", SECRET).await?;
    let mut document = server.get("/_threepid/openapi.json", None).await?.json();
    let operations = document["paths"].as_object().into_iter().flatten();
    let operations: usize =
        operations.map(|(_, methods)| methods.as_object().map_or(0, |methods| methods.len())).sum();
    without_refusals_of_others(&mut document);
    examples(&mut document, &sid);

    let setting = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let found = Schemathesis::new(server.base_url(), document)
        .token(&alice)
        .arg("--seed")
        .arg(&setting("SCHEMATHESIS_SEED", SEED))
        .arg("--max-examples")
        .arg(&setting("SCHEMATHESIS_EXAMPLES", EXAMPLES))
        .run()
        .await?;
    let statuses = statuses(&server.log()?)?;
    #[expect(clippy::print_stdout, reason = "how much was tried is part of what this test says")]
    {
        println!(
            "schemathesis: {} operations, {} cases; answers: {statuses:?}",
            found.operations, found.cases
        );
    }
    assert!(found.success, "{}", found.said);
    // Numbers were asked for, too.
    gateway.wait_for_requests(1).await?;
    assert_eq!(u64::try_from(operations)?, found.operations, "each operation was asked: {}", found.said);
    assert!(found.cases > 500, "only {} requests were made: {}", found.cases, found.said);
    assert!(statuses.get("200").is_some_and(|good| *good > 50), "{statuses:?}");
    Ok(server.end().await?)
}
