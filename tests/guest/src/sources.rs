//! Where this machine gets Debian from: out of apt's own configuration, so no host is named here.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

/// The address of the mirror that this machine uses for Debian itself (not for security updates).
///
/// # Errors
///
/// If the machine's apt has no such mirror.
pub fn mirror() -> Result<String> {
    if let Some(uri) = from_apt() {
        return Ok(uri);
    }
    match from_files(Path::new("/etc/apt")) {
        Some(uri) => Ok(uri),
        None => bail!(
            "this machine's apt knows no Debian mirror: none in /etc/apt/sources.list and \
             /etc/apt/sources.list.d"
        ),
    }
}

/// What apt says; nothing if its lists were never fetched.
fn from_apt() -> Option<String> {
    let format = "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)";
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| {
        let (origin, rest) = line.split_once(' ')?;
        let (component, rest) = rest.split_once(' ')?;
        let (release, uri) = rest.split_once(' ')?;
        (origin == "Debian" && component == "main" && !release.contains('-'))
            .then(|| uri.to_owned())
    })
}

/// What the files say: `sources.list`, and `sources.list.d` in both formats.
fn from_files(etc: &Path) -> Option<String> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.extend(more);
    }
    files.iter().find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        match path.extension()?.to_str()? {
            "list" => one_line(&text),
            "sources" => deb822(&text),
            _ => None,
        }
    })
}

/// `deb [options] URI suite component...`
fn one_line(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.split('#').next()?.trim().strip_prefix("deb ")?.trim_start();
        let line = match line.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?.1,
            None => line,
        };
        let mut words = line.split_whitespace();
        let uri = words.next()?;
        let suite = words.next()?;
        debian(uri, &[suite], &words.collect::<Vec<_>>())
    })
}

/// Paragraphs of `Field: value`, with continuation lines.
fn deb822(text: &str) -> Option<String> {
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.split(|line| line.trim().is_empty()).find_map(|paragraph| {
        let field = |name: &str| -> Vec<&str> {
            let mut words = Vec::new();
            let mut inside = false;
            for line in paragraph {
                if !line.starts_with([' ', '\t']) {
                    inside = line.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case(name));
                }
                if inside {
                    let value = line.split_once(':').filter(|_| !line.starts_with([' ', '\t']));
                    words.extend(value.map_or(*line, |(_, v)| v).split_whitespace());
                }
            }
            words
        };
        let off = field("Enabled").first().is_some_and(|v| v.eq_ignore_ascii_case("no"));
        if off || !field("Types").contains(&"deb") {
            return None;
        }
        debian(field("URIs").first()?, &field("Suites"), &field("Components"))
    })
}

/// The URI, if this is a main archive of Debian: a suite without a dash, and no security archive.
fn debian(uri: &str, suites: &[&str], components: &[&str]) -> Option<String> {
    const SUITES: [&str; 8] =
        ["bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable", "oldstable"];
    let main = suites.iter().any(|suite| SUITES.contains(suite));
    (main && components.contains(&"main")).then(|| format!("{}/", uri.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_format() {
        let text = "# deb http://x/debian trixie main\n\
                    deb-src http://x/debian trixie main\n\
                    deb http://x/sec trixie-security main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://y/debian trixie main contrib\n";
        assert_eq!(one_line(text).as_deref(), Some("http://y/debian/"));
        assert_eq!(one_line("deb https://z/apt cloud main\n"), None);
    }

    #[test]
    fn deb822_format() {
        let text = "Types: deb\nURIs: http://s/sec\nSuites: trixie-security\nComponents: main\n\n\
                    # a comment\nTypes: deb\n# http://old\nURIs: http://y/debian/\n\
                    Suites: trixie\n trixie-updates\nComponents: main\n";
        assert_eq!(deb822(text).as_deref(), Some("http://y/debian/"));
        assert_eq!(deb822(&text.replace("Types", "Enabled: no\nTypes")), None);
    }
}
