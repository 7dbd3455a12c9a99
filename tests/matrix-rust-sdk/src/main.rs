//! What matrix-rust-sdk does about an account's contacts, step by step, told as one line of JSON a step.
//!
//! `threepid-matrix-rust-sdk BASE_URL CA_FILE USER_ID EMAIL`, with the password in `THREEPID_PASSWORD`. After the step
//! `request` it waits for a line on standard input: by then somebody has pressed the button that the mail leads to.

use std::error::Error;
use std::io::BufRead as _;

use matrix_sdk::reqwest::Certificate;
use matrix_sdk::ruma::api::client::uiaa::{AuthData, MatrixUserIdentifier, Password, UserIdentifier};
use matrix_sdk::ruma::thirdparty::Medium;
use matrix_sdk::ruma::{ClientSecret, uint};
use matrix_sdk::{Account, Client};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base_url, ca_file, user_id, email] = arguments.as_slice() else {
        return Err("usage: threepid-matrix-rust-sdk BASE_URL CA_FILE USER_ID EMAIL".into());
    };
    let password = std::env::var("THREEPID_PASSWORD")?;
    let authority = Certificate::from_pem(&std::fs::read(ca_file)?)?;
    let client = Client::builder()
        .homeserver_url(base_url)
        .respect_login_well_known(false)
        .add_root_certificates(vec![authority])
        .build()
        .await?;
    client.matrix_auth().login_username(user_id, &password).send().await?;
    let account = client.account();

    say("list", listed(&account).await?);
    let secret = ClientSecret::parse("a-secret-of-the-rust-sdk")?;
    let opened = account.request_3pid_email_token(&secret, email, uint!(1)).await?;
    say("request", json!({ "sid": opened.sid, "submit_url": opened.submit_url }));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;

    let auth = |password: &str, session: Option<String>| {
        let user = UserIdentifier::Matrix(MatrixUserIdentifier::new(user_id.clone()));
        let mut auth = Password::new(user, password.to_owned());
        auth.session = session;
        Some(AuthData::Password(auth))
    };
    let mut session = None;
    for (step, answer) in
        [("challenge", None), ("wrong password", Some("not the password")), ("add", Some(password.as_str()))]
    {
        let auth = answer.and_then(|password| auth(password, session.clone()));
        match account.add_3pid(&secret, &opened.sid, auth).await {
            Ok(_) => say(step, json!("added")),
            Err(error) => {
                let asked = error.as_uiaa_response().ok_or_else(|| error.to_string())?;
                session.clone_from(&asked.session);
                let stages: Vec<_> = asked.flows.iter().map(|flow| json!(flow.stages)).collect();
                let refusal = asked.auth_error.as_ref().map(|error| error.kind.errcode().to_string());
                say(step, json!({ "flows": stages, "errcode": refusal }));
            }
        }
    }
    say("list", listed(&account).await?);
    let again = account.request_3pid_email_token(&secret, email, uint!(2)).await;
    let kind = again.err().and_then(|error| error.client_api_error_kind().map(|kind| kind.errcode().to_string()));
    say("request again", json!(kind));
    let deleted = account.delete_3pid(email, Medium::Email, None).await?;
    say("delete", json!(deleted.id_server_unbind_result.as_str()));
    say("list", listed(&account).await?);
    Ok(())
}

async fn listed(account: &Account) -> Outcome<Value> {
    let threepids = account.get_3pids().await?.threepids;
    Ok(threepids.into_iter().map(|threepid| json!([threepid.medium, threepid.address])).collect())
}

fn say(step: &str, what: Value) {
    println!("{}", json!({ "step": step, "what": what }));
}
