//! Hostile bytes on a bare connection: slow ones, too many of them, and those that a proxy and a server could read
//! differently. Each ends soon, with one clean refusal or a closed connection; nothing smuggled behind a request ever
//! runs; and the server goes on.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use threepid_tests::peers::{free_port, wait_until};
use threepid_tests::server::{REQUEST_TOKEN, SUBMIT_TOKEN, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::Story;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Nothing may take longer, on a machine that does much else meanwhile; the server's own limits are a second each.
const WITHIN: Duration = Duration::from_secs(30);
/// How often a slow client sends a byte.
const TRICKLE: Duration = Duration::from_millis(40);

/// What has to become of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// One answer 4xx, or none; then the connection is closed.
    Refused,
    /// One answer that is no 5xx: one reading of it is the only one. Then the connection is closed, if only for idling.
    OneAnswer,
}
use Wanted::{OneAnswer, Refused};

struct Case(String, Vec<u8>, Wanted);

fn case(what: &str, bytes: impl Into<Vec<u8>>, wanted: Wanted) -> Case {
    Case(what.to_owned(), bytes.into(), wanted)
}

/// The head of a request with a body, with these header lines.
fn post(headers: &str) -> String {
    format!("POST {SUBMIT_TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n")
}

fn get(headers: &str) -> String {
    format!("GET /health/live HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

/// A whole request that leaves a trace if it runs: a mail that is owed.
fn smuggled() -> String {
    let body = r#"{"client_secret":"smuggled-secret","email":"smuggled@example.org","send_attempt":1}"#;
    let length = body.len();
    format!("POST {REQUEST_TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A server that is soon tired of its clients, and where it tells its metrics.
struct Scene {
    server: Server,
    address: SocketAddr,
    metrics: String,
}

impl Scene {
    async fn start() -> Outcome<Self> {
        let metrics = format!("127.0.0.1:{}", free_port()?);
        let server = Server::builder()
            .text("http.header_timeout", "1s")
            .text("http.body_timeout", "1s")
            .text("http.answer_timeout", "1s")
            .text("mail.transport", "file")
            .text("mail.folder", ".")
            .text("metrics.listen", &metrics)
            .start()
            .await?;
        server.keep_secret("smuggled-secret");
        server.keep_secret("smuggled@example.org");
        let address = server.base_url().trim_start_matches("http://").parse()?;
        Ok(Self { server, address, metrics: format!("http://{metrics}/metrics") })
    }

    async fn connect(&self) -> Outcome<TcpStream> {
        Ok(TcpStream::connect(self.address).await?)
    }

    /// Sends bytes, and gives the statuses of all answers until the server closes the connection.
    async fn exchange(&self, bytes: &[u8]) -> Outcome<Vec<u16>> {
        self.converse(bytes, None).await
    }

    /// The same, and then `trickle` byte by byte, over and over, until the server has enough.
    async fn converse(&self, bytes: &[u8], trickle: Option<&[u8]>) -> Outcome<Vec<u16>> {
        let (mut reading, mut writing) = self.connect().await?.into_split();
        let send = async {
            // The server may close before it has read everything.
            let mut open = writing.write_all(bytes).await.is_ok();
            let mut rest = trickle.into_iter().flatten().cycle();
            let mut pace = tokio::time::interval(TRICKLE);
            while let (true, Some(byte)) = (open, rest.next()) {
                pace.tick().await;
                open = writing.write_all(&[*byte]).await.is_ok();
            }
            // Held open: it is the server that ends it.
            std::future::pending::<()>().await;
        };
        let receive = async {
            let mut answer = Vec::new();
            // A reset is an end, too.
            let _ = reading.read_to_end(&mut answer).await;
            statuses(&answer)
        };
        tokio::select! {
            () = send => Err("it ended before its connection did".into()),
            answered = tokio::time::timeout(WITHIN, receive) => {
                answered.map_err(|_| "the connection stays open".into())
            }
        }
    }

    /// The value of a series.
    async fn metric(&self, series: &str) -> Outcome<String> {
        let told = reqwest::get(&self.metrics).await?.text().await?;
        let value = told.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.ok_or_else(|| format!("no {series} in {told}"))?.to_owned())
    }

    async fn mails_owed(&self) -> Outcome<String> {
        self.metric(r#"threepid_messages_queued_total{kind="validation_mail"}"#).await
    }

    /// It answers, and no smuggled request has run.
    async fn goes_on(&self, after: &str) -> Story {
        let ready = "GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert_eq!(self.exchange(ready.as_bytes()).await?, [200], "after {after}");
        assert_eq!(self.mails_owed().await?, "0", "what was smuggled ran: {after}");
        Ok(())
    }

    async fn each_ends_well(&self, cases: Vec<Case>) -> Story {
        for Case(what, bytes, wanted) in cases {
            let statuses = self.exchange(&bytes).await.map_err(|error| format!("{what}: {error}"))?;
            match wanted {
                Refused => {
                    let clean = matches!(statuses[..], [] | [400..500]);
                    assert!(clean, "{what} is not refused: {statuses:?}");
                }
                OneAnswer => assert!(matches!(statuses[..], [200..500]), "{what}: {statuses:?}"),
            }
            self.goes_on(&what).await?;
        }
        Ok(())
    }
}

/// The statuses of answers, one after the other, without those that announce another.
fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    let heads = text.split("HTTP/1.1 ").skip(1).chain(text.split("HTTP/1.0 ").skip(1));
    heads.filter_map(|head| head.get(..3)?.parse().ok()).filter(|status| *status >= 200).collect()
}

#[tokio::test]
async fn two_lengths_or_none_that_is_clear_smuggle_nothing() -> Story {
    let scene = Scene::start().await?;
    let behind = smuggled();
    let all = 2 + behind.len();
    let chunked_first = 5 + behind.len();
    let mut cases = vec![
        case(
            "two lengths, the first is right",
            post(&format!("Content-Length: 2\r\nContent-Length: {all}\r\n")) + "{}" + &behind,
            Refused,
        ),
        case(
            "two lengths, the last is right",
            post(&format!("Content-Length: {all}\r\nContent-Length: 2\r\n")) + "{}" + &behind,
            Refused,
        ),
        case("the same length twice", post("Content-Length: 2\r\nContent-Length: 2\r\n") + "{}", OneAnswer),
        case("lengths in a list", post("Content-Length: 2, 2\r\n") + "{}" + &behind, Refused),
        case(
            "a length, then chunks",
            post(&format!("Content-Length: {chunked_first}\r\nTransfer-Encoding: chunked\r\n"))
                + "0\r\n\r\n"
                + &behind,
            OneAnswer,
        ),
        case(
            "chunks, then a length",
            post(&format!("Transfer-Encoding: chunked\r\nContent-Length: {chunked_first}\r\n"))
                + "0\r\n\r\n"
                + &behind,
            OneAnswer,
        ),
        case(
            "chunks and a length, to be kept alive",
            post("Connection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n")
                + "0\r\n\r\n"
                + &behind,
            OneAnswer,
        ),
        case(
            "a request as the body of one that has none",
            get(&format!("Content-Length: {}\r\n", behind.len())) + &behind,
            OneAnswer,
        ),
        case(
            "chunks that a GET does not read",
            get("Transfer-Encoding: chunked\r\n") + "x\r\n" + &behind,
            OneAnswer,
        ),
    ];
    for length in
        ["+2", "-2", "0x2", "2 2", "2.0", "", " ", "two", "99999999999999999999", "18446744073709551615"]
    {
        let head = post(&format!("Content-Length: {length}\r\n"));
        // The largest is a number, and more than anybody may send.
        cases.push(case(&format!("a length of {length:?}"), head + "{}" + &behind, Refused));
    }
    for encoding in [
        "identity",
        "chunked, identity",
        "xchunked",
        "chunked;q=1",
        "\u{b}chunked",
        "gzip",
        "",
        "\"chunked\"",
    ] {
        let head = post(&format!("Transfer-Encoding: {encoding}\r\n"));
        cases.push(case(&format!("encoded as {encoding:?}"), head + "0\r\n\r\n" + &behind, Refused));
        let head = post(&format!("Content-Length: 5\r\nTransfer-Encoding: {encoding}\r\n"));
        cases.push(case(
            &format!("a length, and encoded as {encoding:?}"),
            head + "0\r\n\r\n" + &behind,
            Refused,
        ));
    }
    for (what, headers) in [
        ("encoded twice, chunked first", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("a space before the colon", "Transfer-Encoding : chunked\r\n"),
        ("a tab before the colon", "Content-Length\t: 5\r\n"),
        ("a folded encoding", "Transfer-Encoding:\r\n chunked\r\n"),
        ("a folded header", "X-Folded: a\r\n\tb\r\nContent-Length: 5\r\n"),
        ("an encoding behind a bare CR", "X-A: b\rTransfer-Encoding: chunked\r\n"),
        ("a NUL in a name", "Transfer\0-Encoding: chunked\r\n"),
        ("a NUL in a value", "X-A: b\0c\r\nContent-Length: 5\r\n"),
        ("a control character in a value", "X-A: b\u{1}c\r\nContent-Length: 5\r\n"),
        ("a name of no characters", ": chunked\r\n"),
        ("a line without a colon", "chunked\r\n"),
        ("a name with a space", "Transfer Encoding: chunked\r\n"),
    ] {
        cases.push(case(what, post(headers) + "0\r\n\r\n" + &behind, Refused));
    }
    let old = post("Transfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0") + "0\r\n\r\n" + &behind;
    cases.push(case("chunks in HTTP/1.0", old, Refused));
    scene.each_ends_well(cases).await?;
    Ok(scene.server.end().await?)
}

#[tokio::test]
async fn odd_chunks_are_refused_and_smuggle_nothing() -> Story {
    let scene = Scene::start().await?;
    let behind = smuggled();
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n") + body;
    let mut cases = Vec::new();
    for (what, body) in [
        ("a size with a plus", "+2\r\n{}\r\n0\r\n\r\n"),
        ("a size below zero", "-2\r\n{}\r\n0\r\n\r\n"),
        ("a size with 0x", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("a size that is no number", "zz\r\n{}\r\n0\r\n\r\n"),
        ("no size", "\r\n{}\r\n0\r\n\r\n"),
        ("a size of more than 64 bits", "10000000000000002\r\n{}\r\n0\r\n\r\n"),
        ("sizes behind bare LF", "2\n{}\n0\n\n"),
        ("data behind bare LF", "2\r\n{}\n0\r\n\r\n"),
        ("a bare CR behind a size", "2\r{}\r\n0\r\n\r\n"),
        ("no line's end behind data", "2\r\n{}0\r\n\r\n"),
        ("more data than the size says", "1\r\n{}\r\n0\r\n\r\n"),
        ("two sizes", "2 2\r\n{}\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "2;a\n{}\r\n0\r\n\r\n"),
        ("a trailer without a colon", "2\r\n{}\r\n0\r\nchunked\r\n\r\n"),
        ("a folded trailer", "2\r\n{}\r\n0\r\nX-A: b\r\n c\r\n\r\n"),
        ("a trailer behind bare LF", "2\r\n{}\r\n0\r\nX-A: b\n\n"),
    ] {
        cases.push(case(what, chunked(body) + &behind, Refused));
    }
    let extension = "x".repeat(4 * 1024 * 1024);
    let trailer = format!("X-A: {}\r\n", "x".repeat(1024 * 1024));
    let trailers = "X-A: b\r\n".repeat(10_000);
    cases.extend([
        case(
            "an extension of 4 MiB",
            chunked(&format!("2;{extension}\r\n{{}}\r\n0\r\n\r\n")) + &behind,
            Refused,
        ),
        case(
            "an extension for each of 20 000 chunks",
            chunked(&"1;ab\r\n \r\n".repeat(20_000)) + &behind,
            Refused,
        ),
        case("a trailer of 1 MiB", chunked(&format!("2\r\n{{}}\r\n0\r\n{trailer}\r\n")) + &behind, Refused),
        case("10 000 trailers", chunked(&format!("2\r\n{{}}\r\n0\r\n{trailers}\r\n")) + &behind, Refused),
        case("a size of 64 bits", chunked("ffffffffffffffff\r\n{}") + &behind, Refused),
        case("no last chunk", chunked("2\r\n{}\r\n"), Refused),
        case(
            "a trailer that says a length",
            chunked("2\r\n{}\r\n0\r\nContent-Length: 9000\r\n\r\n"),
            OneAnswer,
        ),
        case("an extension", chunked("2;a=b\r\n{}\r\n0\r\n\r\n"), OneAnswer),
        case(
            "gzip below the chunks",
            post("Transfer-Encoding: gzip, chunked\r\n") + "2\r\n{}\r\n0\r\n\r\n",
            OneAnswer,
        ),
    ]);
    scene.each_ends_well(cases).await?;
    Ok(scene.server.end().await?)
}

#[tokio::test]
async fn what_is_no_request_of_http_1_1_is_refused() -> Story {
    let scene = Scene::start().await?;
    let behind = smuggled();
    let mut hello = vec![0x16, 3, 1, 0, 0xf4, 1, 0, 0, 0xf0, 3, 3];
    hello.extend((0..240_u8).map(|byte| byte.wrapping_mul(37)));
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut cases = vec![
        case("a hello of TLS", hello, Refused),
        case("the start of a hello of TLS", &b"\x16\x03\x01\x00\xf4"[..], Refused),
        case("the preface of HTTP/2", &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], Refused),
        case("HTTP/0.9", "GET /health/live\r\n", Refused),
        case("HTTP/0.9 by number", "GET /health/live HTTP/0.9\r\n\r\n", Refused),
        case("HTTP/1.2", "GET /health/live HTTP/1.2\r\n\r\n", Refused),
        case("HTTP/3", "GET /health/live HTTP/3\r\n\r\n", Refused),
        case("a version in small letters", "GET /health/live http/1.1\r\n\r\n", Refused),
        case("the PROXY protocol", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n", Refused),
        case("SMTP", "EHLO example.org\r\nMAIL FROM:<a@example.org>\r\n", Refused),
        case("NULs", vec![0; 100_000], Refused),
        case("empty lines without end", "\r\n".repeat(1_000_000), Refused),
        case("bare CRs", "GET /health/live HTTP/1.1\rHost: x\r\r", Refused),
        case("a method with a NUL", "GE\0T /health/live HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
        case("a target with a space", target("/health /live") + &behind, Refused),
        case("a target with a NUL", target("/health\0/live") + &behind, Refused),
        case("a method without end", "G".repeat(2_000_000), Refused),
        case("a target without end", format!("GET /{}", "x".repeat(2_000_000)), Refused),
        case("a target of 100 KB", target(&format!("/{}", "x".repeat(100_000))), Refused),
        case("a header of 20 KB", get(&format!("X-A: {}\r\n", "x".repeat(20_000))), Refused),
        case(
            "a header without end",
            get("").trim_end().to_owned() + "\r\nX-A: " + &"x".repeat(2_000_000),
            Refused,
        ),
        case("a name without end", get("").trim_end().to_owned() + "\r\n" + &"x".repeat(2_000_000), Refused),
        case("200 headers", get(&"X-A: b\r\n".repeat(200)), Refused),
        case(
            "headers without end",
            get("").trim_end().to_owned() + "\r\n" + &"X-A: b\r\n".repeat(200_000),
            Refused,
        ),
        case(
            "a header that begins with a space",
            format!("GET /health/live HTTP/1.1\r\n X-A: b\r\nHost: x\r\n\r\n{behind}"),
            Refused,
        ),
        case("a tunnel", "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", Refused),
        case("a target of another host", target("http://elsewhere.example/health/live"), OneAnswer),
        case("a target of another scheme", target("ftp://elsewhere.example/health/live"), OneAnswer),
        case("a target of no path", target("elsewhere.example:80"), Refused),
        case("everything", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", OneAnswer),
        case("a method that nobody knows", target("/health/live").replace("GET", "BREW"), OneAnswer),
        case(
            "a wish for HTTP/2",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
            OneAnswer,
        ),
        case("a wish for a web socket", get("Connection: Upgrade\r\nUpgrade: websocket\r\n"), OneAnswer),
        case("lines that end with LF alone", "GET /health/live HTTP/1.1\nHost: x\n\n", OneAnswer),
        case("99 headers", get(&"X-A: b\r\n".repeat(98)), OneAnswer),
    ];
    for expected in ["100-continue", "the unexpected"] {
        let head = post(&format!("Expect: {expected}\r\nContent-Length: 2\r\n"));
        cases.push(case(&format!("expecting {expected} and a body that does not come"), head, Refused));
    }
    scene.each_ends_well(cases).await?;
    Ok(scene.server.end().await?)
}

#[tokio::test]
async fn slow_clients_are_given_up() -> Story {
    let scene = Scene::start().await?;
    let unending = post("").trim_end().to_owned() + "\r\nX-A: ";
    let chunked = post("Transfer-Encoding: chunked\r\n");
    for (what, bytes, trickle, wanted) in [
        ("nothing is said", String::new(), None, &[][..]),
        ("half a head is said", unending.clone(), None, &[]),
        ("a head comes byte by byte", String::new(), Some(&b"GET /x"[..]), &[]),
        ("a header comes byte by byte", unending, Some(b"x"), &[]),
        ("empty lines come one by one", String::new(), Some(b"\r\n"), &[]),
        ("no body comes", post("Content-Length: 9\r\n"), None, &[408]),
        ("a body comes byte by byte", post("Content-Length: 60000\r\n"), Some(b" "), &[408]),
        ("chunks come byte by byte", chunked.clone(), Some(b"1\r\n \r\n"), &[408]),
        ("a size comes byte by byte", chunked.clone(), Some(b"0"), &[408]),
        ("an extension comes byte by byte", chunked.clone() + "2;", Some(b"x"), &[408]),
        ("trailers come byte by byte", chunked + "2\r\n{}\r\n0\r\n", Some(b"X-A: b\r\n"), &[408]),
        ("a body that nobody reads comes byte by byte", get("Content-Length: 60000\r\n"), Some(b"x"), &[200]),
    ] {
        let ended = scene.converse(bytes.as_bytes(), trickle).await;
        let statuses = ended.map_err(|error| format!("{what}: {error}"))?;
        // A reset may overtake an answer that was sent.
        assert!(statuses == wanted || statuses.is_empty(), "{what}: {statuses:?}");
        scene.goes_on(what).await?;
    }
    Ok(scene.server.end().await?)
}

#[tokio::test]
async fn a_connection_that_is_half_closed_or_reset_is_done_with() -> Story {
    let scene = Scene::start().await?;
    let half = post("Content-Length: 9\r\n") + "{}";
    for (what, bytes) in [
        ("nothing", String::new()),
        ("half a head", "GET /health/live HT".to_owned()),
        ("half a body", half.clone()),
        ("half a chunk", post("Transfer-Encoding: chunked\r\n") + "9\r\n{}"),
        ("a whole request", get("")),
    ] {
        let mut stream = scene.connect().await?;
        stream.write_all(bytes.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(WITHIN, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{what}: it stays open");
        let statuses = statuses(&answer);
        assert!(matches!(statuses[..], [] | [200..500]), "{what}: {statuses:?}");
        scene.goes_on(what).await?;
    }
    for bytes in ["", "GET /health/live HT", &half] {
        let socket = TcpSocket::new_v4()?;
        // Dropping it resets the connection.
        socket.set_zero_linger()?;
        let mut stream = socket.connect(scene.address).await?;
        stream.write_all(bytes.as_bytes()).await?;
        drop(stream);
        scene.goes_on("a reset").await?;
    }
    let none_is_open = || async {
        let open = scene.metric(r#"threepid_http_connections{state="open"}"#).await;
        Ok(open.is_ok_and(|open| open == "0").then_some(()))
    };
    wait_until("the end of all connections", WITHIN, none_is_open).await?;
    Ok(scene.server.end().await?)
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() -> Story {
    let scene = Scene::start().await?;
    let unknown = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n";
    let empty = post("Content-Length: 2\r\n") + "{}";
    let requests = [&get(""), unknown, &empty, &smuggled(), &get("Connection: close\r\n"), unknown].concat();
    assert_eq!(
        scene.exchange(requests.as_bytes()).await?,
        [200, 404, 400, 200, 200],
        "and none after the close"
    );
    // What the other stories look for would be seen.
    assert_eq!(scene.mails_owed().await?, "1");

    let before = scene.server.peak_memory().ok_or("it runs")?;
    let many = get("").repeat(20_000) + &get("Connection: close\r\n");
    let statuses = scene.exchange(many.as_bytes()).await?;
    assert!(statuses.len() == 20_001 && statuses.iter().all(|status| *status == 200), "{}", statuses.len());
    let grown = scene.server.peak_memory().ok_or("it runs")?.saturating_sub(before);
    assert!(grown < 32 * 1024, "they took {grown} KiB");
    Ok(scene.server.end().await?)
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_given_up() -> Story {
    let scene = Scene::start().await?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let stream = socket.connect(scene.address).await?;
    let (taken, mut asking) = stream.into_split();
    let sending = tokio::spawn(async move {
        let request = "GET /_threepid/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
        let _ = asking.write_all(request.repeat(5_000).as_bytes()).await;
        asking
    });
    let open = || scene.metric(r#"threepid_http_connections{state="open"}"#);
    let answered =
        r#"threepid_http_requests_total{method="GET",route="/_threepid/openapi.json",status="200"}"#;
    let asked = || async { Ok(scene.metric(answered).await.ok().filter(|count| count != "0")) };
    wait_until("its first answer", WITHIN, asked).await?;
    let given_up = || async { Ok(open().await.is_ok_and(|open| open == "0").then_some(())) };
    wait_until("the end of a connection whose client reads nothing", WITHIN, given_up).await?;
    let answers: u32 = scene.metric(answered).await?.parse()?;
    assert!(answers < 5_000, "it took them all");
    drop((taken, sending));
    scene.goes_on("answers that nobody took").await?;
    Ok(scene.server.end().await?)
}
