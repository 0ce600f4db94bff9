//! The console: pages for people, which lie in the binary and speak the administration interface.
//!
//! What is served here is files and nothing else: no data, no names, so nobody has to be signed in
//! to get them. Browsers are told to load nothing from anywhere else and to run no script but
//! these files. They are compressed once, when the gateway starts.

use std::io::Write;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::secret::Digest;

/// Where the console stands.
pub const BASE: &str = "/console";

/// What a browser may do with these pages.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; \
    form-action 'self'";

/// A file of the console.
pub struct Asset {
    /// Its path below [`BASE`]; empty: the page itself.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Tells one content from another, in quotation marks.
    pub tag: String,
    /// As it is in the tree.
    pub plain: &'static [u8],
    /// The same in gzip.
    pub packed: Vec<u8>,
}

macro_rules! files {
    ($($path:literal: $name:literal,)*) => {
        [$(($path, $name, include_bytes!(concat!("assets/", $name)) as &[u8]),)*]
    };
}

/// Path, name of the file, content.
const FILES: &[(&str, &str, &[u8])] = &files! {
    "": "index.html",
    "/api.js": "api.js",
    "/charts.js": "charts.js",
    "/dom.js": "dom.js",
    "/form.js": "form.js",
    "/format.js": "format.js",
    "/holdings.js": "holdings.js",
    "/icon.svg": "icon.svg",
    "/main.js": "main.js",
    "/pages/limits.js": "pages/limits.js",
    "/pages/me.js": "pages/me.js",
    "/pages/models.js": "pages/models.js",
    "/pages/overview.js": "pages/overview.js",
    "/pages/permissions.js": "pages/permissions.js",
    "/pages/playground.js": "pages/playground.js",
    "/pages/providers.js": "pages/providers.js",
    "/pages/quotas.js": "pages/quotas.js",
    "/pages/request.js": "pages/request.js",
    "/pages/requests.js": "pages/requests.js",
    "/pages/settings.js": "pages/settings.js",
    "/pages/users.js": "pages/users.js",
    "/parts.js": "parts.js",
    "/section.js": "section.js",
    "/snippets.js": "snippets.js",
    "/style.css": "style.css",
    "/table.js": "table.js",
};

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.iter().map(Asset::of).collect());

impl Asset {
    fn of((path, name, plain): &(&'static str, &'static str, &'static [u8])) -> Asset {
        let tag = format!("\"{}\"", &Digest::of(plain).to_text()["sha256:".len()..][..32]);
        Asset { path, content_type: content_type(name), tag, plain, packed: pack(plain) }
    }

    /// Whether a browser that names these tags has this content.
    pub fn is_known(&self, told: &[u8]) -> bool {
        let told = String::from_utf8_lossy(told);
        told.split(',').any(|tag| tag.trim().trim_start_matches("W/") == self.tag)
    }
}

/// Every file, made ready at the first call.
pub fn assets() -> &'static [Asset] {
    &ASSETS
}

/// The file at a path that does not end in a slash. `None`: the path is not the console's;
/// `Some(None)`: it is, and there is no such file.
pub fn find(path: &str) -> Option<Option<&'static Asset>> {
    let rest = path.strip_prefix(BASE)?;
    let is_ours = rest.is_empty() || rest.starts_with('/');
    is_ours.then(|| ASSETS.iter().find(|asset| asset.path == rest))
}

/// Whether an answer in gzip is understood.
pub fn takes_gzip(accept_encoding: &[u8]) -> bool {
    let told = String::from_utf8_lossy(accept_encoding).to_ascii_lowercase();
    told.split(',').any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|text| text.parse::<f32>().ok());
        name.trim() == "gzip" && weight.is_some_and(|weight| weight > 0.0)
    })
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

fn pack(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// All files together, as they are sent.
    const PACKED_BYTES_MAX: usize = 150 * 1024;

    fn names(folder: &Path, base: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("its entries are readable").path();
            if path.is_dir() {
                names(&path, base, found);
            } else {
                let name = path.strip_prefix(base).expect("it is below");
                found.insert(name.to_str().expect("a name is text").to_owned());
            }
        }
    }

    #[test]
    fn every_file_of_the_tree_is_served_under_its_name() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console/assets");
        let mut found = BTreeSet::new();
        names(&base, &base, &mut found);
        let served: BTreeSet<String> = FILES.iter().map(|(_, name, _)| (*name).into()).collect();
        assert_eq!(served, found);
        for (path, name, _) in FILES.iter().filter(|(path, ..)| !path.is_empty()) {
            assert_eq!(path[1..], **name);
        }
    }

    #[test]
    fn all_files_together_are_small() {
        let packed: usize = assets().iter().map(|asset| asset.packed.len()).sum();
        assert!(packed <= PACKED_BYTES_MAX, "{packed} bytes in gzip");
    }

    #[test]
    fn what_is_packed_is_what_is_plain() {
        for asset in assets() {
            let mut plain = Vec::new();
            let mut decoder = flate2::write::GzDecoder::new(&mut plain);
            decoder.write_all(&asset.packed).and_then(|()| decoder.finish().map(drop)).unwrap();
            assert_eq!(plain, asset.plain, "{}", asset.path);
        }
    }

    #[test]
    fn the_console_has_its_own_paths_and_no_neighbours() {
        let rows = [
            ("/console", Some(Some(""))),
            ("/console/main.js", Some(Some("/main.js"))),
            ("/console/../main.js", Some(None)),
            ("/console/index.html", Some(None)),
            ("/consoles", None),
            ("/v1/console", None),
        ];
        for (path, expected) in rows {
            assert_eq!(find(path).map(|found| found.map(|asset| asset.path)), expected, "{path}");
        }
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it_and_a_known_content_to_nobody() {
        let rows = [("gzip, br", true), ("GZIP;q=0.5", true), ("br", false), ("gzip;q=0", false)];
        for (told, expected) in rows {
            assert_eq!(takes_gzip(told.as_bytes()), expected, "{told}");
        }
        let asset = &assets()[0];
        assert!(asset.is_known(format!("\"x\", W/{}", asset.tag).as_bytes()));
        assert!(!asset.is_known(b"\"x\""));
    }
}
