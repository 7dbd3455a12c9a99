//! The identity-server contract, held against a real identity server: what the fake says is what a real one says.

use std::collections::HashMap;
use std::error::Error;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::json;
use threepid_adapters::identity_server::{
    HyperIdentityServer, IdentityServerSettings, ServerSettings, SigningKey,
};
use threepid_domain::model::{Address, IdAccessToken, IdentityServerName, UserId};
use threepid_domain::ports::RemoteCredentials;
use threepid_domain::testing::contract::identity_server::{IdentityBackend, IdentitySite};
use threepid_tests::peers::{IdentityAccount, Nginx, SmtpServer, Sydent, Synapse, TestCa, free_port, front};

const NAME: &str = "identity.example.org";

/// The servers of one case.
struct Site {
    homeserver: Synapse,
    homeserver_name: String,
    smtp: SmtpServer,
    identity_server: Sydent,
    _front: Nginx,
    _ca: TestCa,
}

impl Site {
    async fn start() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let ca = TestCa::new()?;
        let port = free_port()?;
        let homeserver_name = format!("127.0.0.1:{port}");
        let homeserver = Synapse::builder().server_name(&homeserver_name).start().await?;
        std::fs::set_permissions(homeserver.signing_key(), std::fs::Permissions::from_mode(0o600))?;
        let locations = front(homeserver.base_url(), homeserver.base_url());
        let nginx = Nginx::start(&ca, Some(port), &["127.0.0.1"], &locations).await?;
        let smtp = SmtpServer::start().await?;
        let identity_server = Sydent::start(NAME, &smtp, &ca).await?;
        Ok(Self { homeserver, homeserver_name, smtp, identity_server, _front: nginx, _ca: ca })
    }

    /// Opens the link of the mail for this session.
    async fn follow(&self, session: &RemoteCredentials) -> Result<(), Box<dyn Error + Send + Sync>> {
        let marker = format!("sid={}", session.sid.as_str());
        let base = self.identity_server.base_url().to_owned();
        let link_in = |text: &str| {
            let ends = |line: &&str| line.split('&').any(|part| part.ends_with(&marker));
            text.lines().filter(ends).find_map(|line| line.strip_prefix(&base)).map(str::to_owned)
        };
        let mail = self.smtp.wait_for_mail(|mail| mail.text.as_deref().and_then(link_in).is_some()).await?;
        let path = mail.text.as_deref().and_then(link_in).ok_or("the mail has a link")?;
        self.identity_server.call(Method::GET, &path, None, None).await?;
        Ok(())
    }

    async fn lookup(
        &self,
        address: &Address,
        asker: &IdentityAccount,
    ) -> Result<Option<UserId>, Box<dyn Error + Send + Sync>> {
        let path = "/_matrix/identity/v2/hash_details";
        let (_, details) = self.identity_server.call(Method::GET, path, Some(asker), None).await?;
        let address = format!("{} email", address.as_str());
        let asked =
            json!({ "algorithm": "none", "pepper": details["lookup_pepper"], "addresses": [address] });
        let path = "/_matrix/identity/v2/lookup";
        let (_, answer) = self.identity_server.call(Method::POST, path, Some(asker), Some(&asked)).await?;
        Ok(answer["mappings"][&address].as_str().map(UserId::parse).transpose()?)
    }
}

/// The site as one case sees it.
struct Case {
    site: Arc<Site>,
    account: IdentityAccount,
}

#[async_trait]
impl IdentitySite for Case {
    async fn token(&self, _user_id: &UserId) -> IdAccessToken {
        IdAccessToken::new(self.account.access_token.clone())
    }

    async fn prove(&self, _server: &IdentityServerName, session: &RemoteCredentials) {
        let followed = self.site.follow(session).await;
        assert!(followed.is_ok(), "{followed:?}");
    }

    async fn published(&self, _server: &IdentityServerName, address: &Address) -> Option<UserId> {
        let found = self.site.lookup(address, &self.account).await;
        assert!(found.is_ok(), "{found:?}");
        found.ok().flatten()
    }
}

async fn backend() -> Result<IdentityBackend, Box<dyn Error + Send + Sync>> {
    let site = Arc::new(Site::start().await?);
    let user = site.homeserver.new_user().await?;
    let account = site.identity_server.register(&site.homeserver, &user).await?;
    let server = IdentityServerName::parse(NAME)?;
    let known = ServerSettings { base_url: Some(site.identity_server.base_url().parse()?), v1_form: false };
    let port = HyperIdentityServer::new(IdentityServerSettings {
        servers: HashMap::from([(server.clone(), known)]),
        signing_key: Some(SigningKey::read(site.homeserver.signing_key().as_ref(), &site.homeserver_name)?),
        ..IdentityServerSettings::default()
    })?;
    Ok(IdentityBackend {
        port: Arc::new(port),
        server,
        user_id: UserId::parse(&user.user_id)?,
        site: Arc::new(Case { site, account }),
        signs: true,
        moods: None,
        keep: Box::new(()),
    })
}

/// A site that does not start fails the case that asked for it, with the reason.
async fn fresh() -> IdentityBackend {
    backend().await.unwrap_or_else(|error| unreachable!("{error}"))
}

threepid_domain::identity_server_contract!(fresh());
