//! A real browser: headless Chromium, driven through chromedriver's W3C WebDriver protocol.
//!
//! Chromium is started here rather than by chromedriver, which would put it into a process group that nobody
//! ends. What WebDriver has no words for (phones, dark mode, scripts switched off, the accessibility tree) goes
//! through the DevTools protocol.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{PeerError, Process, Spec, artifacts, free_port, temp_folder, wait_until};

/// How long [`Chromium::wait_for`] looks for an element.
const ELEMENT_WITHIN: Duration = Duration::from_secs(10);
/// The key under which WebDriver puts an element's reference.
const ELEMENT_KEY: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The size and kind of screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewport {
    /// 1280 × 800 CSS pixels.
    Desktop,
    /// 390 × 844 CSS pixels at three times the density, with touch and a phone's user agent.
    Phone,
}

/// What `prefers-color-scheme` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appearance {
    /// `light`.
    Light,
    /// `dark`.
    Dark,
}

/// How the browser is set up.
#[derive(Debug, Clone)]
pub struct ChromiumOptions {
    /// The screen.
    pub viewport: Viewport,
    /// Light or dark.
    pub appearance: Appearance,
    /// Whether pages may run scripts.
    pub javascript: bool,
    /// More of Chromium's command-line flags, such as `--host-resolver-rules=…`.
    pub flags: Vec<String>,
}

impl Default for ChromiumOptions {
    fn default() -> Self {
        Self {
            viewport: Viewport::Desktop,
            appearance: Appearance::Light,
            javascript: true,
            flags: Vec::new(),
        }
    }
}

/// An element of the page that is open.
#[derive(Debug, Clone)]
pub struct Element(String);

/// A running browser with one window, a new profile, and its driver.
#[derive(Debug)]
pub struct Chromium {
    client: Client,
    session: String,
    _driver: Process,
    _browser: Process,
    _folder: TempDir,
}

impl Chromium {
    /// Starts a browser.
    ///
    /// # Errors
    ///
    /// Chromium or chromedriver is not installed, or does not start.
    pub async fn start(options: ChromiumOptions) -> Result<Self, PeerError> {
        let folder = temp_folder("chromium")?;
        let profile = folder.path().join("profile");
        let (width, height) = match options.viewport {
            Viewport::Desktop => (1280, 800),
            Viewport::Phone => (390, 844),
        };
        let mut browser = Spec::system("chromium")?
            // Chromium refuses to run as root with its sandbox; only the stories' own pages are opened.
            .arg("--no-sandbox")
            .arg("--headless=new")
            .arg("--disable-gpu")
            .arg("--disable-dev-shm-usage")
            .arg("--disable-background-networking")
            .arg("--disable-component-update")
            .arg("--disable-sync")
            .arg("--disable-extensions")
            .arg("--disable-breakpad")
            .arg("--disable-crash-reporter")
            .arg("--no-first-run")
            .arg("--no-default-browser-check")
            .arg("--password-store=basic")
            .arg("--hide-scrollbars")
            .arg("--remote-debugging-port=0")
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.display()))
            .env("HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path().join("config"))
            .env("XDG_CACHE_HOME", folder.path().join("cache"));
        for flag in &options.flags {
            browser = browser.arg(flag);
        }
        let mut browser = Process::start(browser.arg("about:blank"), folder.path())?;

        let port = free_port()?;
        let driver = Spec::system("chromedriver")?.arg(format!("--port={port}")).env("HOME", folder.path());
        let mut driver = Process::start(driver, folder.path())?;

        // Chromium writes the port that it picked into its profile: the first line, once it listens.
        let debugger: u16 = browser
            .ready(|| async {
                let text = std::fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
                Ok(text.split_once('\n').and_then(|(port, _)| port.parse().ok()))
            })
            .await?;
        let client = Client::new();
        let base = format!("http://127.0.0.1:{port}");
        driver
            .ready(|| async {
                match client.get(format!("{base}/status")).send().await {
                    Ok(answer) => {
                        let status: Value = answer.json().await?;
                        Ok((status["value"]["ready"] == true).then_some(()))
                    }
                    Err(_) => Ok(None),
                }
            })
            .await?;
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "debuggerAddress": format!("127.0.0.1:{debugger}") },
        } } });
        let answer: Value = client.post(format!("{base}/session")).json(&wanted).send().await?.json().await?;
        let id = answer["value"]["sessionId"]
            .as_str()
            .ok_or_else(|| driver.failure(&format!("gave no session: {answer}")))?;
        let browser = Self {
            session: format!("{base}/session/{id}"),
            client,
            _driver: driver,
            _browser: browser,
            _folder: folder,
        };
        browser.set_up(&options, width, height).await?;
        Ok(browser)
    }

    async fn set_up(&self, options: &ChromiumOptions, width: u32, height: u32) -> Result<(), PeerError> {
        let phone = options.viewport == Viewport::Phone;
        let metrics = json!({
            "width": width, "height": height, "mobile": phone, "deviceScaleFactor": if phone { 3 } else { 1 },
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await?;
        if phone {
            let agent = "Mozilla/5.0 (Linux; Android 14; Phone) AppleWebKit/537.36 (KHTML, like Gecko) \
                         Chrome/130.0.0.0 Mobile Safari/537.36";
            self.devtools("Emulation.setTouchEmulationEnabled", json!({ "enabled": true })).await?;
            self.devtools("Emulation.setUserAgentOverride", json!({ "userAgent": agent })).await?;
        }
        // The window is the one that somebody sits before, whatever the system without a screen says.
        self.devtools("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })).await?;
        self.set_appearance(options.appearance).await?;
        if !options.javascript {
            self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await?;
        }
        Ok(())
    }

    /// Changes `prefers-color-scheme`.
    ///
    /// # Errors
    ///
    /// The browser has ended.
    pub async fn set_appearance(&self, appearance: Appearance) -> Result<(), PeerError> {
        let scheme = if appearance == Appearance::Dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Errors
    ///
    /// Nothing answers there.
    pub async fn goto(&self, url: &str) -> Result<(), PeerError> {
        self.post("url", json!({ "url": url })).await.map(drop)
    }

    /// The address of the page that is open, after redirects.
    ///
    /// # Errors
    ///
    /// The browser has ended.
    pub async fn current_url(&self) -> Result<String, PeerError> {
        text(self.get("url").await?)
    }

    /// The page's title.
    ///
    /// # Errors
    ///
    /// The browser has ended.
    pub async fn title(&self) -> Result<String, PeerError> {
        text(self.get("title").await?)
    }

    /// The page's source, as it stands now.
    ///
    /// # Errors
    ///
    /// The browser has ended.
    pub async fn source(&self) -> Result<String, PeerError> {
        text(self.get("source").await?)
    }

    /// The first element that a CSS selector finds.
    ///
    /// # Errors
    ///
    /// There is none.
    pub async fn find(&self, selector: &str) -> Result<Element, PeerError> {
        let found = self.post("element", json!({ "using": "css selector", "value": selector })).await?;
        text(found[ELEMENT_KEY].clone()).map(Element)
    }

    /// How many elements a CSS selector finds.
    ///
    /// # Errors
    ///
    /// The browser has ended.
    pub async fn count(&self, selector: &str) -> Result<usize, PeerError> {
        let found = self.post("elements", json!({ "using": "css selector", "value": selector })).await?;
        Ok(found.as_array().map_or(0, Vec::len))
    }

    /// Waits for the first element that a CSS selector finds.
    ///
    /// # Errors
    ///
    /// There was none for 10 s; the error quotes the page.
    pub async fn wait_for(&self, selector: &str) -> Result<Element, PeerError> {
        let found =
            wait_until(selector, ELEMENT_WITHIN, || async { Ok(self.find(selector).await.ok()) }).await;
        match found {
            Ok(element) => Ok(element),
            Err(error) => Err(PeerError::new(format!("{error}; the page: {}", self.source().await?))),
        }
    }

    /// Clicks an element as a person would: it is scrolled into view and must not be covered.
    ///
    /// # Errors
    ///
    /// It cannot be clicked.
    pub async fn click(&self, element: &Element) -> Result<(), PeerError> {
        self.post(&format!("element/{}/click", element.0), json!({})).await.map(drop)
    }

    /// Types into an element.
    ///
    /// # Errors
    ///
    /// It takes no keys.
    pub async fn type_into(&self, element: &Element, keys: &str) -> Result<(), PeerError> {
        self.post(&format!("element/{}/value", element.0), json!({ "text": keys })).await.map(drop)
    }

    /// The text of an element as it is rendered.
    ///
    /// # Errors
    ///
    /// The element is gone.
    pub async fn text(&self, element: &Element) -> Result<String, PeerError> {
        text(self.get(&format!("element/{}/text", element.0)).await?)
    }

    /// A computed CSS value of an element, such as `background-color`.
    ///
    /// # Errors
    ///
    /// The element is gone.
    pub async fn css(&self, element: &Element, property: &str) -> Result<String, PeerError> {
        text(self.get(&format!("element/{}/css/{property}", element.0)).await?)
    }

    /// The place and size of an element in CSS pixels: `x`, `y`, `width`, `height`.
    ///
    /// # Errors
    ///
    /// The element is gone.
    pub async fn rectangle(&self, element: &Element) -> Result<Value, PeerError> {
        self.get(&format!("element/{}/rect", element.0)).await
    }

    /// Runs a function body in the page and gives what it returns. DevTools may do this where pages may not.
    ///
    /// # Errors
    ///
    /// It throws.
    pub async fn evaluate(&self, expression: &str) -> Result<Value, PeerError> {
        let wanted = json!({ "expression": expression, "returnByValue": true });
        let answer = self.devtools("Runtime.evaluate", wanted).await?;
        if answer["exceptionDetails"].is_object() {
            return Err(PeerError::new(format!("the page threw: {}", answer["exceptionDetails"])));
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Saves what is seen as `{name}.png` among the artifacts and gives the path.
    ///
    /// # Errors
    ///
    /// The browser has ended, or the file cannot be written.
    pub async fn screenshot(&self, name: &str) -> Result<PathBuf, PeerError> {
        let png = STANDARD
            .decode(text(self.get("screenshot").await?)?)
            .map_err(|error| PeerError::new(error.to_string()))?;
        let path = artifacts()?.join(format!("{name}.png"));
        std::fs::write(&path, png)?;
        Ok(path)
    }

    /// What a screen reader is given: (role, name) of every node that is not ignored, in reading order.
    ///
    /// # Errors
    ///
    /// The browser has ended.
    pub async fn accessibility_tree(&self) -> Result<Vec<(String, String)>, PeerError> {
        let tree = self.devtools("Accessibility.getFullAXTree", json!({})).await?;
        let nodes = tree["nodes"].as_array().into_iter().flatten();
        Ok(nodes
            .filter(|node| node["ignored"] != true)
            .map(|node| {
                let value = |key: &str| node[key]["value"].as_str().unwrap_or_default().to_owned();
                (value("role"), value("name"))
            })
            .collect())
    }

    /// Sends a command of the DevTools protocol and gives its result.
    ///
    /// # Errors
    ///
    /// The browser refuses it.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Result<Value, PeerError> {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    async fn get(&self, path: &str) -> Result<Value, PeerError> {
        value(path, self.client.get(format!("{}/{path}", self.session)).send().await?).await
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value, PeerError> {
        value(path, self.client.post(format!("{}/{path}", self.session)).json(&body).send().await?).await
    }
}

async fn value(path: &str, answer: reqwest::Response) -> Result<Value, PeerError> {
    let status = answer.status();
    let mut body: Value = answer.json().await?;
    if status != 200 {
        let (error, message) = (&body["value"]["error"], &body["value"]["message"]);
        return Err(PeerError::new(format!("the browser answered {error} to {path}: {message}")));
    }
    Ok(body["value"].take())
}

fn text(value: Value) -> Result<String, PeerError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(PeerError::new(format!("the browser gave no text: {other}"))),
    }
}
