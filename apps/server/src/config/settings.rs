//! Every setting: its name, what it means, its type and its default. The order is that of the template.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::declare::settings;
use super::limits::Limits;
use super::values::{
    AccountsChoice, AddressRule, BaseUrl, DatabaseTls, DatabaseUrl, DeprecatedAddChoice, ForwardingHeader,
    LogFormat, Mailbox, Network, ReauthenticationChoice, Secret, SecretHeaders, Security, SmsMethod,
    SmsTransportChoice, Span, Statuses, Transport, TrustedIdentityServer, ValidationChoice,
};

settings! {
    /// All settings, as they are written. What they mean together is decided in [`Config`](super::Config).
    Settings {
        /// Where clients and browsers reach this server from outside. The links in mails lead below it.
        /// Required: it is never taken from a request.
        public_base_url: Option<BaseUrl> = None => "\"https://matrix.example.org\"",
        /// Where the server listens, as IP address and port. TLS is the reverse proxy's.
        listen: SocketAddr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8090),
        /// Who knows access tokens: "homeserver" asks it (whoami), "local" keeps accounts in the database
        /// (`threepid account`).
        accounts: AccountsChoice = AccountsChoice::Homeserver,
        /// Who asks users again who they are before `POST /account/3pid/add` adds an address: "homeserver" with its own
        /// challenge, "local" for the password of an account in the database (`threepid account password`), "none"
        /// nobody, so that a stolen access token is enough. Without it: whoever knows access tokens.
        reauthentication: Option<ReauthenticationChoice> = None => "\"homeserver\"",
        /// What `POST /account/3pid` may do. It is deprecated, since it adds a proven address without asking again who
        /// is there: "on" whatever it could, "identity_server_only" only what an identity server has proven, "off"
        /// nothing, which is best once no client needs it.
        deprecated_add: DeprecatedAddChoice = DeprecatedAddChoice::On,
        /// Whether accounts may change their contacts. Clients learn it from `GET /capabilities` (`m.3pid_changes`).
        changes: bool = true,
        /// Whether nobody is told that an address belongs to an account here. The specification has
        /// `POST /account/3pid/email/requestToken` and `.../msisdn/requestToken` say `M_THREEPID_IN_USE`; with this they answer
        /// as for an address that is free, nothing that comes back proves it, and whoever has the address is informed, once a
        /// day at most. Every message then leaves up to 5 s later. Only with `validation = "direct"`.
        hide_in_use: bool = false,
        /// Who validates addresses: "direct" this server, which sends the mails itself, "identity_server" the first of
        /// `identity_servers` that `validates`, or the one of these that a client names.
        validation: ValidationChoice = ValidationChoice::Direct,
        /// The identity servers that are trusted. One that `binds` may be named by clients to bind and unbind. One that
        /// `validates` may prove any address that nobody has yet, so it has to be as trustworthy as this server. It is
        /// asked at `base_url`, or else at `https://` and its name; `v1_form` is for one that reads only forms on v1.
        identity_servers: Vec<TrustedIdentityServer> = Vec::new() => "[{ name = \"vector.im\" }]",
    }
    sections {
        /// Where sessions, contacts and unsent mails are kept.
        database: Database,
        /// The key under which tokens are derived and secrets are hashed. The database remembers which key it belongs
        /// to; another one is refused at start.
        server_key: ServerKey,
        /// The homeserver whose accounts these are.
        homeserver: Homeserver,
        /// How identity servers are asked.
        identity: Identity,
        /// The homeserver's signing key, under which identity servers are asked to forget bindings. Without it they are
        /// not asked, and clients are told `no-support`.
        signing_key: SigningKey,
        /// Synapse's own copy of contacts. Sign-in and reset by email read it, so they go on working for addresses that
        /// are added here. Import what Synapse has before this is switched on (`threepid import synapse`): with its first
        /// change, an account's list there becomes the one here.
        mirror: Mirror,
        /// Accounts that Synapse has deactivated are erased here, as by `threepid account erase`. Without this section an
        /// account stays here until you erase it.
        sweep: SweepChoice,
        /// The mails that prove addresses.
        mail: Mail,
        /// The SMS that prove phone numbers.
        sms: Sms,
        /// Which addresses may be added. A denied address is denied even if it is allowed; where there are allow rules
        /// for a medium, an address of that medium must meet one.
        addresses: Addresses,
        /// How long proofs are good.
        lifetimes: LifetimeSettings,
        /// How often somebody may do something. Whoever is over it gets 429 `M_LIMIT_EXCEEDED`.
        limits: Limits,
        /// How requests are read and answered.
        http: Http,
        /// How owed mails are tried again.
        relay: RelaySettings,
        /// What has ended is removed, a little at a time: sessions, challenges and spent proofs once nothing can come of
        /// them, and what is kept for you alone after these times. Mails that are owed stay, and dead ones until you decide
        /// (`threepid outbox`).
        housekeeping: HousekeepingSettings,
        /// The texts of mails and pages.
        templates: Templates,
        /// What is logged, to standard error.
        log: Log,
        /// What is counted, for Prometheus.
        metrics: MetricsSettings,
    }
}

settings! {
    /// `[database]`
    Database {
        /// The database: `sqlite://` and a path, which is made if it is not there, or
        /// `postgres://user@host:port/database`, which several instances may share.
        url: DatabaseUrl = DatabaseUrl::new("sqlite://threepid.db"),
        /// PostgreSQL: that user's password, if the URL has none.
        password: Option<Secret> = None => "\"(secret)\"",
        /// PostgreSQL: a file that holds the password instead; one line break at its end is dropped.
        password_file: Option<PathBuf> = None => "\"/run/secrets/database-password\"",
        /// PostgreSQL: how the connection is secured. "verify-full" is TLS with a certificate for this host,
        /// "verify-ca" for any, "require" is TLS with whatever certificate, "prefer" is TLS or clear text, "disable" is
        /// clear text. Without it: what `sslmode` in the URL says, else "prefer".
        tls: Option<DatabaseTls> = None => "\"verify-full\"",
        /// PostgreSQL: certificates (PEM) to trust instead of the well-known ones.
        ca_file: Option<PathBuf> = None => "\"/etc/ssl/private-ca.pem\"",
        /// PostgreSQL: how many connections this instance has at most; two more tell and hear of owed messages. At
        /// least 1.
        connections: u32 = 10,
        /// SQLite: for how long a list of contacts is remembered once it was read. A change forgets it at once; what
        /// another process changes in the same file (`threepid import`, `threepid account erase`) is seen after this.
        /// "0s" reads each list anew.
        remember_contacts: Span = Span::seconds(1),
        /// SQLite: how many connections read beside the one that writes. At least 1.
        readers: u32 = 4,
        /// How long a request waits for a free connection, or for a new one; longer is 503. More than zero.
        acquire_timeout: Span = Span::seconds(5),
        /// PostgreSQL: how long one statement may take; longer is 503. More than zero.
        statement_timeout: Span = Span::seconds(10),
    }
}

settings! {
    /// `[server_key]`
    ServerKey {
        /// The key itself: 32 random bytes as 64 hexadecimal digits or in base64 (`openssl rand -hex 32`). For several
        /// instances, which share it.
        value: Option<Secret> = None => "\"(64 hexadecimal digits)\"",
        /// A file that holds the key; it is made at the first start. Without `value` and `file` it stands beside the
        /// SQLite database and ends in `.key`; with PostgreSQL one of them is required.
        file: Option<PathBuf> = None => "\"threepid.key\"",
    }
}

settings! {
    /// `[homeserver]`
    Homeserver {
        /// Where this server reaches the homeserver. Required when `accounts` is "homeserver".
        base_url: Option<BaseUrl> = None => "\"http://localhost:8008\"",
        /// How long it may take to answer.
        timeout: Span = Span::seconds(10),
        /// How long a good answer about a token is remembered for reading. Changes always ask anew; "0s" remembers
        /// nothing.
        remember: Span = Span::seconds(30),
        /// Certificates (PEM) that are trusted besides the system's.
        ca_file: Option<PathBuf> = None => "\"/etc/ssl/private-ca.pem\"",
    }
}

settings! {
    /// `[identity]`
    Identity {
        /// How long an identity server may take, from the look-up of its name to the last byte. More than zero.
        timeout: Span = Span::seconds(10),
        /// The same for an unbind, since a client waits for its deletion meanwhile. More than zero and at most 10s.
        unbind_timeout: Span = Span::seconds(8),
        /// The longest answer that is read, in bytes. More than zero.
        max_answer_bytes: usize = 64 * 1024,
        /// Certificates (PEM) that are trusted besides the system's.
        ca_file: Option<PathBuf> = None => "\"/etc/ssl/private-ca.pem\"",
        /// Networks that are connected to although they are private or special. Only names that have no `base_url` are
        /// judged by where they lead.
        allow_networks: Vec<Network> = Vec::new() => "[\"10.0.0.0/8\"]",
    }
}

settings! {
    /// `[signing_key]`
    SigningKey {
        /// The file: Synapse's `*.signing.key` or Dendrite's `matrix_key.pem`. Nobody but the user whom this server runs
        /// as may read it.
        file: Option<PathBuf> = None => "\"/etc/threepid/homeserver.signing.key\"",
        /// The homeserver's name, as user IDs end with it. Required with `file`.
        homeserver: Option<String> = None => "\"example.org\"",
    }
}

settings! {
    /// `[mirror]`
    Mirror {
        /// Where this server reaches Synapse's admin API. Every change of contacts is told there; without it, none is.
        /// `homeserver.timeout` and `homeserver.ca_file` hold for it, too.
        synapse_admin_url: Option<BaseUrl> = None => "\"http://localhost:8008\"",
        /// The access token of an administrator of Synapse's.
        token: Option<Secret> = None => "\"(secret)\"",
        /// A file that holds the token instead; one line break at its end is dropped.
        token_file: Option<PathBuf> = None => "\"/run/secrets/synapse-admin-token\"",
    }
}

settings! {
    /// `[sweep]`
    SweepChoice {
        /// Where this server reaches Synapse's admin API, which is asked about each account that anything is kept about
        /// here; without it, none is. Only where `accounts` is "homeserver". `homeserver.timeout` and `homeserver.ca_file`
        /// hold for it, too.
        synapse_admin_url: Option<BaseUrl> = None => "\"http://localhost:8008\"",
        /// The access token of an administrator of Synapse's. It may be the one of `mirror`.
        token: Option<Secret> = None => "\"(secret)\"",
        /// A file that holds the token instead; one line break at its end is dropped.
        token_file: Option<PathBuf> = None => "\"/run/secrets/synapse-admin-token\"",
        /// How often every account is asked about. A round takes a second for each account, or less where that would be
        /// longer than half of this. More than zero.
        every: Span = Span::seconds(24 * 60 * 60),
    }
}

settings! {
    /// `[mail]`
    Mail {
        /// How mail leaves: "smtp" to a mail server, "file" into a folder, "none" not at all; then requests for an
        /// email token are answered with `M_THREEPID_MEDIUM_NOT_SUPPORTED`.
        transport: Transport = Transport::Smtp,
        /// The sender. Required unless `transport` is "none".
        from: Option<Mailbox> = None => "\"Example <noreply@example.org>\"",
        /// Where answers go, if not to the sender.
        reply_to: Option<Mailbox> = None => "\"support@example.org\"",
        /// Whether each mail carries a six-digit code beside its link, for clients that have a field for one. A code can
        /// be guessed where a link cannot: `limits.codes_per_address` bounds how often that may be tried.
        code: bool = false,
        /// What mails and pages call your service.
        app_name: String = "Matrix".to_owned(),
        /// The folder that `transport = "file"` writes to, one file a mail.
        folder: PathBuf = PathBuf::from("mail"),
    }
    sections {
        /// The mail server, for `transport = "smtp"`.
        smtp: Smtp,
    }
}

settings! {
    /// `[mail.smtp]`
    Smtp {
        /// Its name. With TLS its certificate has to carry it.
        host: String = "localhost".to_owned(),
        /// Its port. Without it: 587 for "starttls", 465 for "tls", 25 for "none".
        port: Option<u16> = None => "587",
        /// How the connection is secured: "starttls" upgrades it or gives up, "tls" is TLS from the first byte, "none"
        /// is clear text, fit for the same machine alone.
        security: Security = Security::Starttls,
        /// The user to authenticate as; none without it.
        user: Option<String> = None => "\"threepid\"",
        /// That user's password.
        password: Option<Secret> = None => "\"(secret)\"",
        /// A file that holds the password instead; one line break at its end is dropped.
        password_file: Option<PathBuf> = None => "\"/run/secrets/smtp-password\"",
        /// The name this server greets with (EHLO). Without it: the machine's name.
        hello: Option<String> = None => "\"matrix.example.org\"",
        /// How long connecting (with TLS and sign-in) may take, and then each answer. More than zero.
        timeout: Span = Span::seconds(30),
        /// How long one mail may take in all, the wait for a free connection included. More than zero.
        send_timeout: Span = Span::seconds(60),
        /// How many connections there are at most. At least 1.
        connections: usize = 4,
        /// Certificates (PEM) that are trusted besides the well-known ones.
        ca_file: Option<PathBuf> = None => "\"/etc/ssl/private-ca.pem\"",
    }
}

settings! {
    /// `[sms]`
    Sms {
        /// How SMS leave: "http" to a gateway that is asked over HTTP, "none" not at all; then requests for a token by
        /// SMS are answered with `M_THREEPID_MEDIUM_NOT_SUPPORTED`.
        transport: SmsTransportChoice = SmsTransportChoice::None,
    }
    sections {
        /// The gateway, for `transport = "http"`. `url`, the values of `headers`, and `body` are templates: `{{ to }}` is
        /// the number as digits, `{{ to_plus }}` the same with a plus before it, `{{ text }}` the text, `{{ id }}` the SMS's
        /// id, the same at every try, `{{ secret }}` the secret below. What goes into JSON is written
        /// `{{ text | tojson }}`, without quotes around it; what goes into a form or a URL `{{ text | urlencode }}`.
        /// Examples are in `docs/operating/sms.md`.
        http: SmsHttp,
    }
}

settings! {
    /// `[sms.http]`
    SmsHttp {
        /// Where the gateway is asked: http or https. Redirects are not followed. Required when `sms.transport` is "http".
        url: Option<Secret> = None => "\"https://sms.example/messages\"",
        /// The method.
        method: SmsMethod = SmsMethod::Post,
        /// The headers. With a body one has to be `Content-Type`.
        headers: SecretHeaders = SecretHeaders::default() => "{ Content-Type = \"application/json\" }",
        /// The body.
        body: Option<Secret> = None => "'{\"to\": {{ to_plus | tojson }}, \"body\": {{ text | tojson }}}'",
        /// The user to authenticate as (`Authorization: Basic`); none without it.
        user: Option<String> = None => "\"threepid\"",
        /// That user's password.
        password: Option<Secret> = None => "\"(secret)\"",
        /// A file that holds the password instead; one line break at its end is dropped.
        password_file: Option<PathBuf> = None => "\"/run/secrets/sms-password\"",
        /// A key that the templates insert as `{{ secret }}`, for a gateway that wants it elsewhere.
        secret: Option<Secret> = None => "\"(secret)\"",
        /// A file that holds the key instead; one line break at its end is dropped.
        secret_file: Option<PathBuf> = None => "\"/run/secrets/sms-key\"",
        /// Certificates (PEM) that are trusted besides the system's.
        ca_file: Option<PathBuf> = None => "\"/etc/ssl/private-ca.pem\"",
        /// How long one SMS may take, from the look-up of the gateway's name to the last byte of its answer. More than
        /// zero.
        timeout: Span = Span::seconds(10),
        /// Statuses that say that the gateway has the SMS, from 200 to 299.
        sent: Vec<Statuses> = vec![Statuses(200..=299)],
        /// Statuses that say that it will never take it, from 400 to 599: the SMS is kept as dead. After any other status
        /// it is tried again, so also after a wrong key (401, 403), which you may mend.
        give_up: Vec<Statuses> = vec![Statuses(400..=400), Statuses(422..=422)],
        /// A regular expression that an answer with a status of `sent` must match somewhere in its body, too; after one
        /// that does not, the SMS is tried again. For a gateway that answers 200 whatever happens. At most 64 KiB are read.
        sent_if: Option<String> = None => "'\"status\": *\"accepted\"'",
        /// A regular expression that an answer with a status of `give_up` must match somewhere in its body, too. An answer
        /// with a status of `sent` that matches it is given up as well.
        give_up_if: Option<String> = None => "'\"error\": *\"invalid_number\"'",
    }
}

settings! {
    /// `[addresses]`
    Addresses {
        /// Who may be added: `domain` covers the domain and those below it, `country` the phone numbers of a country by its
        /// two letters, `pattern` is a regular expression that the whole address must match. A phone number is its digits
        /// with the country's code, without a plus.
        allow: Vec<AddressRule> = Vec::new() => "[{ domain = \"example.org\" }, { country = \"GB\" }]",
        /// Who may not.
        deny: Vec<AddressRule> = Vec::new() => "[{ medium = \"email\", pattern = \"(root|postmaster)@.*\" }]",
    }
}

settings! {
    /// `[lifetimes]`
    LifetimeSettings {
        /// A token, from when it was asked for. More than zero.
        token: Span = Span::seconds(60 * 60),
        /// A proven session that was not used yet, from its proof. More than zero.
        validated: Span = Span::seconds(24 * 60 * 60),
    }
}

settings! {
    /// `[http]`
    Http {
        /// The reverse proxies whose word on a client's address is taken: IP addresses or networks.
        trusted_proxies: Vec<Network> = Vec::new() => "[\"127.0.0.1\", \"10.0.0.0/8\"]",
        /// The header in which they give it. Only this one is read: a proxy that writes the one passes the other on as
        /// the client made it up.
        forwarding_header: ForwardingHeader = ForwardingHeader::XForwardedFor,
        /// The longest body, in bytes; more is 413. More than zero.
        max_body_bytes: usize = 64 * 1024,
        /// The longest head of a request, in bytes; more is 431. At least 8192.
        max_header_bytes: usize = 16 * 1024,
        /// How many connections are held at a time; others wait. At least 1. The process needs as many open files and
        /// 256 more; where it may not open them, fewer connections are held, and the log says so.
        max_connections: usize = 4096,
        /// How long a request's head may take to arrive, and how long a connection may idle. More than zero.
        header_timeout: Span = Span::seconds(15),
        /// How long a request's body may take to arrive; longer is 408. More than zero.
        body_timeout: Span = Span::seconds(10),
        /// How long a request may take in all; longer is 503, while what has begun still ends. More than zero.
        request_timeout: Span = Span::seconds(30),
        /// How long a client may take to accept an answer; then its connection is closed. More than zero.
        answer_timeout: Span = Span::seconds(30),
        /// How long requests and mails in flight have to end when the server is told to stop.
        shutdown_grace: Span = Span::seconds(30),
    }
}

settings! {
    /// `[relay]`
    RelaySettings {
        /// How many messages are claimed and not settled yet, at most; a crash may send so many twice. Mails share the
        /// `mail.smtp.connections` among them. It begins with 32, and goes on to more while the mail server takes them
        /// fast. At least 1.
        concurrency: usize = 128,
        /// The wait after the first try that failed. More than zero.
        first_retry: Span = Span::seconds(5),
        /// The longest wait between two tries; each is twice as long as the one before.
        longest_retry: Span = Span::seconds(10 * 60),
        /// How long a mail that is being sent is kept from other processes. Longer than
        /// `mail.smtp.send_timeout`.
        lease: Span = Span::seconds(2 * 60),
    }
}

settings! {
    /// `[housekeeping]`
    HousekeepingSettings {
        /// How often it is looked for. More than zero.
        every: Span = Span::seconds(10 * 60),
        /// How long a mail that was sent, or had expired, can be looked at.
        settled_messages: Span = Span::seconds(7 * 24 * 60 * 60),
        /// How long a change of a contact can be looked at (`threepid audit`).
        audit_entries: Span = Span::seconds(31_557_600),
    }
}

settings! {
    /// `[templates]`
    Templates {
        /// A folder whose files replace the built-in ones of the same name.
        folder: Option<PathBuf> = None => "\"/etc/threepid/templates\"",
    }
}

settings! {
    /// `[metrics]`
    MetricsSettings {
        /// Where `GET /metrics` is answered, as IP address and port: nowhere without it, and then nothing is counted.
        /// Whoever reaches it can read it, so it is no address that clients reach.
        listen: Option<SocketAddr> = None => "\"127.0.0.1:9464\"",
    }
}

settings! {
    /// `[log]`
    Log {
        /// "json" is one object a line, "text" is for people.
        format: LogFormat = LogFormat::Json,
        /// How much: "error", "warn", "info", "debug", "trace", or a filter such as "info,threepid_server=debug".
        level: String = "info".to_owned(),
    }
}
