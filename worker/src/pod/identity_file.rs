//! The operator's identity file: who founds the cluster of these pods, and which one it is.
//!
//! It comes as a mounted file, may appear late and is read anew until the cluster is formed. It
//! binds empty directories only; the rules are those of `shoal_core::found`.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use shoal_core::{
    found::{FoundingSet, Mark},
    id::{ClusterId, ParseError},
};

use crate::env::disk;

/// Three names and two ids; a file beyond it is something else.
const MAX_BYTES: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("IDENTITY_FILE {path:?} is not there: mount the operator's ConfigMap there")]
    Absent { path: PathBuf },
    #[error(
        "IDENTITY_FILE {path:?} cannot be read ({source}): mount the operator's ConfigMap there"
    )]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "IDENTITY_FILE {path:?} is not what an operator writes ({reason}): restore the ConfigMap, \
         or let the operator do so"
    )]
    Content { path: PathBuf, reason: String },
}

/// What an operator has decided about the cluster of these pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFile {
    /// Of the ShardCluster, for people.
    pub cluster_uid: String,
    pub founding: FoundingSet,
    /// The cluster that was founded; there is to be no other.
    pub recorded: Option<ClusterId>,
    /// The operator is about to give that cluster up.
    pub abandoning: Option<Mark>,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "crUID")]
    cr_uid: String,
    founding: Vec<String>,
    #[serde(rename = "formedClusterID")]
    formed_cluster_id: Option<String>,
    abandoning: Option<String>,
    #[serde(rename = "abandoningSince")]
    abandoning_since: Option<String>,
}

/// An id that may be left out, or be empty.
fn id(field: &str, text: Option<String>) -> Result<Option<ClusterId>, String> {
    let id = text.filter(|id| !id.is_empty()).map(|id| id.parse());
    id.transpose().map_err(|error: ParseError| format!("{field}: {error}"))
}

impl IdentityFile {
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let content = |reason: String| Error::Content { path: path.to_owned(), reason };
        if disk::length(path).map_err(failed)?.is_some_and(|length| length > MAX_BYTES) {
            return Err(content(format!("it has more than {MAX_BYTES} bytes")));
        }
        match disk::read(path).map_err(failed)? {
            Some(bytes) => Self::parse(&bytes).map_err(content),
            None => Err(Error::Absent { path: path.to_owned() }),
        }
    }

    /// Fields that this build does not know are those of a later operator.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text: Text = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let founding = FoundingSet::new(text.founding);
        let since = text.abandoning_since.unwrap_or_default();
        let abandoning = id("abandoning", text.abandoning)?;
        Ok(Self {
            cluster_uid: text.cr_uid,
            founding: founding.map_err(|error| format!("founding: {error}"))?,
            recorded: id("formedClusterID", text.formed_cluster_id)?,
            abandoning: abandoning.map(|cluster| Mark { cluster, since }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_writes_is_read() {
        let text = r#"{"crUID": "u", "founding": ["o-1", "o-0", "o-2"], "abandoning": null}"#;
        let file = IdentityFile::parse(text.as_bytes()).unwrap();
        assert_eq!(file.founding.names(), ["o-0", "o-1", "o-2"]);
        assert_eq!((file.cluster_uid.as_str(), file.recorded), ("u", None));
        let text = r#"{"crUID": "", "founding": ["o-0"], "formedClusterID": "2a"}"#;
        assert_eq!(IdentityFile::parse(text.as_bytes()).unwrap().recorded, Some(ClusterId(42)));
        let text = r#"{"crUID": "", "founding": ["o-0"], "formedClusterID": ""}"#;
        assert_eq!(IdentityFile::parse(text.as_bytes()).unwrap().recorded, None);
    }

    #[test]
    fn a_mark_is_read_with_the_word_that_tells_it_from_the_next() {
        let read = |mark: &str| {
            let text = format!(r#"{{"crUID": "", "founding": ["o-0"], {mark}}}"#);
            IdentityFile::parse(text.as_bytes()).unwrap().abandoning
        };
        let mark = |since: &str| Some(Mark { cluster: ClusterId(42), since: since.to_owned() });
        assert_eq!(read(r#""abandoning": "2a", "abandoningSince": "t""#), mark("t"));
        assert_eq!(read(r#""abandoning": "2a""#), mark(""));
        assert_eq!(read(r#""abandoning": "", "abandoningSince": "t""#), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        let line = || IdentityFile::read(&path).unwrap_err().to_string();
        assert!(line().ends_with("is not there: mount the operator's ConfigMap there"));
        let huge = " ".repeat(MAX_BYTES as usize + 1);
        for (text, words) in [
            ("", "EOF while parsing"),
            ("[]", "expected"),
            (r#"{"founding": ["o-0"]}"#, "missing field `crUID`"),
            (r#"{"crUID": "u", "founding": []}"#, "founding: a founding set has 1, 2, 3 or 5"),
            (r#"{"crUID": "u", "founding": ["a", "a"]}"#, "founding: \"a\" appears twice"),
            (
                r#"{"crUID": "u", "founding": ["a"], "formedClusterID": "none"}"#,
                "formedClusterID: \"none\" is not a cluster id: expected 32 hexadecimal digits",
            ),
            (
                r#"{"crUID": "u", "founding": ["a"], "abandoning": "all"}"#,
                "abandoning: \"all\" is not a cluster id: expected 32 hexadecimal digits",
            ),
            (&huge, "more than 65536 bytes"),
        ] {
            disk::overwrite(&path, text.as_bytes()).unwrap();
            let line = line();
            for words in [words, "identity.json", "restore the ConfigMap"] {
                assert!(line.contains(words), "{line:?} lacks {words:?}");
            }
        }
        disk::remove_file(&path).unwrap();
        disk::create_dir_all(&path).unwrap();
        assert!(line().contains("cannot be read"), "{}", line());
    }
}
