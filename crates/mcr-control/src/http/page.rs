//! The web page's files, part of the program.

use hyper::StatusCode;

use super::Document;

/// Path, media type, text.
const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("../../web/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../../web/style.css")),
    ("/app.js", SCRIPT, include_str!("../../web/app.js")),
    ("/chart.js", SCRIPT, include_str!("../../web/chart.js")),
    ("/data.js", SCRIPT, include_str!("../../web/data.js")),
    ("/dom.js", SCRIPT, include_str!("../../web/dom.js")),
    ("/views.js", SCRIPT, include_str!("../../web/views.js")),
    ("/icon.svg", "image/svg+xml", include_str!("../../web/icon.svg")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) fn find(path: &str) -> Option<Document> {
    let (_, media_type, text) = FILES.iter().find(|(at, ..)| *at == path)?;
    Some(Document::new(StatusCode::OK, media_type, *text))
}
