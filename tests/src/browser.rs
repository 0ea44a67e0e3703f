//! A real browser without a window, driven over the pipe of the DevTools protocol: no port, no driver, no library.
//!
//! Whatever the browser complains of is kept: errors and warnings on its console, exceptions, refused policies, and requests to
//! anywhere but the daemon.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use mcr_lab::Namespace;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A browser starts slowly where others compile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Without a sandbox because tests run as root, in a namespace that reaches nothing but the relay.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--mute-audio",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "about:blank",
];

/// A browser with one page; ended when dropped.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    requests: ChildStdin,
    messages: Receiver<Value>,
    last_id: u64,
    session: Option<String>,
    origin: String,
    complaints: Vec<String>,
    _profile: TempDir,
}

/// Whether there is one to be had.
pub fn is_installed() -> bool {
    let version =
        Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status: ExitStatus| status.success())
}

impl Browser {
    /// Starts one in a namespace and opens `path` of the daemon at `address`.
    ///
    /// # Panics
    /// If it cannot.
    pub fn open(namespace: &Namespace, address: &str, path: &str) -> Self {
        let profile = TempDir::with_prefix("mcr-browser-").expect("a temporary directory");
        let mut command = namespace.command("sh");
        // It reads from descriptor 3 and writes to 4.
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"]).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.env("HOME", profile.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("a shell");
        let (requests, answers) =
            (process.stdin.take().expect("a pipe"), process.stdout.take().expect("a pipe"));
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("the browser sends JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let origin = format!("http://{address}");
        let mut browser = Self {
            process,
            requests,
            messages,
            last_id: 0,
            session: None,
            origin,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].take();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime", "Log", "Page", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let url = format!("{}{path}", browser.origin);
        browser.call("Page.navigate", json!({"url": url}));
        browser
    }

    /// Sends a command and gives back its result.
    ///
    /// # Panics
    /// If it fails or is not answered.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut request = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.requests.write_all(&bytes).expect("the browser reads");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut message = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(error) => panic!("no answer to {method}: {error}"),
            };
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        let complaint = match message["method"].as_str().unwrap_or_default() {
            "Runtime.consoleAPICalled" => {
                matches!(params["type"].as_str(), Some("error" | "warning" | "assert"))
            }
            "Runtime.exceptionThrown" => true,
            "Log.entryAdded" => matches!(params["entry"]["level"].as_str(), Some("error" | "warning")),
            "Network.requestWillBeSent" => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                !url.starts_with(&format!("{}/", self.origin))
            }
            _ => false,
        };
        if complaint {
            self.complaints.push(message.to_string());
        }
    }

    /// The value of an expression of JavaScript; of a promise, what it comes to.
    ///
    /// # Panics
    /// If it throws.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// The text of the first element that a selector finds, or null.
    #[track_caller]
    pub fn text(&mut self, selector: &str) -> Value {
        self.eval(&format!("document.querySelector({})?.textContent", json!(selector)))
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// If it does not come to that.
    #[track_caller]
    pub fn wait(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(&format!("Boolean({expression})")) != true {
            if Instant::now() > deadline {
                let text = self.eval("document.body.innerText");
                panic!(
                    "not true in time: {expression}; complaints {:?}; the page says {text}",
                    self.complaints
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses a key and lets it go: a character, or a name such as `Enter`.
    pub fn press(&mut self, key: &str) {
        let text = match key {
            "Enter" => "\r",
            _ if key.chars().count() == 1 => key,
            _ => "",
        };
        let code = if key == "Enter" { 13 } else { 0 };
        let mut params = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": code});
        if !text.is_empty() {
            params["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", params);
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code}),
        );
    }

    /// Clicks the middle of the first element that a selector finds, as a mouse would.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn click(&mut self, selector: &str) {
        let place = self.eval(&format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let params =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    /// Makes the window so large, and the user's preference light or dark.
    pub fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// Writes a picture of the page to `MCR_SCREENSHOTS/NAME.png`, if that is set.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn picture(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("MCR_SCREENSHOTS") else { return };
        let data = self.call("Page.captureScreenshot", json!({"format": "png"}))["data"].take();
        let path = Path::new(&directory).join(format!("{name}.png"));
        std::fs::write(path, base64(data.as_str().expect("a picture"))).expect("a directory to write to");
    }

    /// What it complained of so far.
    pub fn complaints(&mut self) -> &[String] {
        // What it has said by now comes before this answer.
        self.eval("1");
        &self.complaints
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to end, it takes its own children along; it is killed only if it does not.
        let _ = self.requests.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// RFC 4648, section 4; what is not in its alphabet is skipped.
fn base64(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter_map(|byte| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    });
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in digits {
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
