//! The page that operators follow to move in beside Synapse, followed: its blocks are taken out of it and run.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use threepid_tests::peers::{Nginx, SmtpServer, Synapse, free_port, repository, wait_until};
use threepid_tests::server::{CONFIRM, REQUEST_TOKEN, Server, THREEPIDS};

use crate::Story;

const SOON: Duration = Duration::from_secs(30);

/// The blocks of a page in a language, in their order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn page(name: &str) -> std::io::Result<String> {
    std::fs::read_to_string(repository().join("docs").join(name))
}

/// Replaces what is said of the operator's machine by what is there. Each of them has to be on the page.
fn here(block: &str, replaced: &[(&str, &str)]) -> String {
    replaced.iter().fold(block.to_owned(), |block, (theirs, ours)| {
        assert!(block.contains(theirs), "{theirs} in {block}");
        block.replace(theirs, ours)
    })
}

/// What a client sees through the reverse proxy.
struct Front {
    base_url: String,
    token: String,
    client: Client,
}

impl Front {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base_url)).bearer_auth(&self.token)
    }

    /// The status, the JSON, and whether threepid gave the answer.
    async fn answer(
        &self,
        request: RequestBuilder,
    ) -> Result<(u16, Value, bool), Box<dyn std::error::Error + Send + Sync>> {
        let answer = request.send().await?;
        let by_threepid = answer.headers().contains_key("x-request-id");
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or_default(), by_threepid))
    }
}

#[tokio::test]
async fn the_page_about_synapse_does_what_it_says() -> Story {
    let page = page("deploy-synapse.md")?;
    let (yaml, toml, nginx, shell) =
        (blocks(&page, "yaml"), blocks(&page, "toml"), blocks(&page, "nginx"), blocks(&page, "sh"));

    // 1. Synapse as it was, and then held still.
    let homeserver = Synapse::builder().settings(&yaml.concat()).start().await?;
    let admin = homeserver.register_admin("admin").await?;
    let alice = homeserver.register("alice").await?;
    let contacts = json!({ "threepids": [{ "medium": "email", "address": "old@example.org" }] });
    let path = format!("/_synapse/admin/v2/users/{}", alice.user_id);
    homeserver.put(&path, Some(&admin.access_token), &contacts).await?;
    let before = homeserver.get(THREEPIDS, Some(&alice.access_token)).await?;
    let refused = homeserver
        .post(&format!("{THREEPIDS}/delete"), Some(&alice.access_token), &contacts["threepids"][0])
        .await;
    assert!(refused.is_err_and(|error| error.to_string().contains("M_FORBIDDEN")), "it is held still");

    // 2. Settings.
    let smtp = SmtpServer::start().await?;
    let port = free_port()?;
    let public = format!("http://127.0.0.1:{port}");
    let mut server = Server::builder().prepare()?;
    let ours = server.base_url().trim_start_matches("http://").to_owned();
    let database = format!("sqlite://{}", server.folder().join("threepid.db").display());
    let token = server.folder().join("token");
    std::fs::write(&token, format!("{}\n", admin.access_token))?;
    let settings = here(
        &toml.concat(),
        &[
            ("https://matrix.example.org", &public),
            ("127.0.0.1:8090", &ours),
            ("http://127.0.0.1:8008", homeserver.base_url()),
            ("sqlite:///var/lib/threepid/threepid.db", &database),
            ("mail.example.org", "127.0.0.1"),
            ("/run/secrets/synapse-admin-token", &token.to_string_lossy()),
        ],
    );
    let transport = format!("mail.smtp.security = \"none\"\nmail.smtp.port = {}\n", smtp.port());
    std::fs::write(server.config(), settings + &transport)?;
    server.keep_secret(&admin.access_token);

    // 3 to 5. The commands, in the order of the page.
    let synapses = homeserver.database().to_string_lossy().into_owned();
    let mut said = Vec::new();
    let commands: Vec<&str> = shell.iter().flat_map(|block| block.lines()).collect();
    for command in
        commands.iter().filter_map(|line| line.strip_prefix("threepid --config /etc/threepid/threepid.toml "))
    {
        let command = command.replace("/var/lib/matrix-synapse/homeserver.db", &synapses);
        let command = command.replace("--server-name example.org", "--server-name localhost");
        let arguments: Vec<&str> = command.split_whitespace().collect();
        if arguments == ["serve"] {
            server.launch().await?;
            continue;
        }
        let (status, output) = server.run(&arguments).await?;
        assert_eq!(status, 0, "{command}: {output}");
        said.push(output);
    }
    let [_checked, dry, applied] = &said[..] else { return Err(format!("{said:?}").into()) };
    assert!(dry.contains("contacts: 1 to import, 0 already there, 0 skipped"), "{dry}");
    assert!(applied.contains("contacts: 1 imported, 0 already there, 0 skipped"), "{applied}");

    let routes = here(
        &nginx.concat(),
        &[("http://127.0.0.1:8090", server.base_url()), ("http://127.0.0.1:8008", homeserver.base_url())],
    );
    let proxy = Nginx::start_plain(port, &routes).await?;
    assert_eq!(proxy.base_url(), public);

    // 6. As a client sees it.
    let front = Front { base_url: public, token: alice.access_token.clone(), client: Client::new() };
    let listed = front.answer(front.request(Method::GET, THREEPIDS)).await?;
    assert_eq!(listed, (200, before, true), "it lists what it listed before");
    let (_, capabilities, by_threepid) =
        front.answer(front.request(Method::GET, "/_matrix/client/v3/capabilities")).await?;
    assert_eq!(capabilities["capabilities"]["m.3pid_changes"]["enabled"], true, "{capabilities}");
    assert!(by_threepid);
    for path in [
        "/_matrix/client/v3/account/password/email/requestToken",
        "/_matrix/client/v3/register/email/requestToken",
        "/_matrix/client/v3/account/3pids",
        "/_matrix/client/v3/capabilities/more",
        "/_matrix/client/versions",
    ] {
        let (_, _, by_threepid) = front.answer(front.request(Method::POST, path).json(&json!({}))).await?;
        assert!(!by_threepid, "{path} is Synapse's");
    }

    // A new address, with Synapse's own question for the password.
    let body = json!({ "client_secret": "a-secret-of-alice", "email": "new@example.org", "send_attempt": 1 });
    let (status, opened, _) = front.answer(front.request(Method::POST, REQUEST_TOKEN).json(&body)).await?;
    assert_eq!(status, 200, "{opened}");
    let link = smtp.wait_for_mail_to("new@example.org").await?.confirm_link()?;
    assert!(link.starts_with(&format!("{}{CONFIRM}", front.base_url)), "{link}");
    let query = link.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default();
    let button = front.client.post(format!("{}{CONFIRM}", front.base_url)).body(query);
    let pressed = button.header("content-type", "application/x-www-form-urlencoded").send().await?;
    assert_eq!(pressed.status(), 200);
    let add = |auth: Option<Value>| {
        let mut body = json!({ "client_secret": "a-secret-of-alice", "sid": opened["sid"] });
        if let Some(auth) = auth {
            body["auth"] = auth;
        }
        front.answer(front.request(Method::POST, &format!("{THREEPIDS}/add")).json(&body))
    };
    let (status, asked, _) = add(None).await?;
    assert_eq!(status, 401, "{asked}");
    let auth = json!({
        "type": "m.login.password",
        "session": asked["session"],
        "identifier": { "type": "m.id.user", "user": alice.user_id },
        "password": alice.password,
    });
    assert_eq!(add(Some(auth)).await?, (200, json!({}), true));

    // Both addresses sign in, at Synapse, through the same front.
    for address in ["old@example.org", "new@example.org"] {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": address },
            "password": alice.password,
        });
        wait_until("the sign-in by email", SOON, || async {
            let request =
                front.client.post(format!("{}/_matrix/client/v3/login", front.base_url)).json(&body);
            Ok((request.send().await?.status() == 200).then_some(()))
        })
        .await?;
    }
    server.wait_for_log(&["delivered to the next hop", "mirror"]).await?;
    Ok(server.end().await?)
}

#[test]
fn both_pages_send_the_same_paths_to_threepid() -> Story {
    let (all, synapse) = (page("deploy.md")?, page("deploy-synapse.md")?);
    let routes = blocks(&all, "nginx");
    assert_eq!(routes.first(), blocks(&synapse, "nginx").first());
    // Caddy and Traefik match by the same expression.
    let expression = "^/_matrix/client/((r0|v3|unstable)/account/3pid(/|$)|(r0|v3)/capabilities$)";
    for block in [&routes[0], &blocks(&all, "caddy")[0], &blocks(&all, "yaml")[0]] {
        assert!(block.contains(expression), "{block}");
        assert!(block.contains("/_threepid/"), "{block}");
    }
    Ok(())
}
