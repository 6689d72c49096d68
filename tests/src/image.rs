//! Container images without a registry and without a container tool: an OCI archive of one
//! layer that holds given programs and the libraries that they load.
//!
//! The same files give the same archive, byte for byte: entries are sorted and carry no time.
//! It also carries the older index that `docker load` reads. It builds no program, and nothing
//! of a distribution comes along but the libraries.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read as _},
    path::{Component, Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};

/// Who runs in the image: no user of the machine.
pub const USER: u32 = 65_532;
/// Digits of the content's hash that a name ends with: enough to tell builds apart.
const TAG_DIGITS: usize = 12;
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const NAME_ANNOTATION: &str = "io.containerd.image.name";

/// What an image will hold.
#[derive(Debug)]
pub struct Image {
    repository: String,
    tag: Option<String>,
    entrypoint: Vec<String>,
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { content: Vec<u8>, mode: u32 },
    Link { to: PathBuf },
}

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// `localhost/<name>:<hash of its content>`: another content has another name.
    pub name: String,
    /// Of its manifest: what a registry would call it.
    pub digest: String,
    /// Of its configuration: what a node calls it.
    pub id: String,
}

impl Image {
    /// `localhost/<name>`, with what programs expect of any system: users, a directory for
    /// temporary files, and names looked up by DNS.
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        let mut image = Self {
            repository: format!("localhost/{name}"),
            tag: None,
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
            entries: BTreeMap::new(),
        };
        let passwd = format!("root:x:0:0::/:/bin/sh\nnonroot:x:{USER}:{USER}::/tmp:/bin/false\n");
        image.file("/etc/passwd", passwd.into_bytes(), 0o644);
        let group = format!("root:x:0:\nnonroot:x:{USER}:\n");
        image.file("/etc/group", group.into_bytes(), 0o644);
        image.file("/etc/nsswitch.conf", b"hosts: files dns\n".to_vec(), 0o644);
        image.entries.insert("tmp".into(), Entry::Directory { mode: 0o1777 });
        image
    }

    /// A tag that somebody else has chosen, in place of the content's hash.
    pub fn tagged(mut self, tag: &str) -> Self {
        self.tag = Some(tag.to_owned());
        self
    }

    /// A program of this machine, at `path` of the image, and the libraries it loads, where it
    /// looks for them.
    pub fn program(&mut self, source: &Path, path: &str) -> anyhow::Result<()> {
        for library in libraries(source)? {
            let content = fs::read(&library).with_context(|| library.display().to_string())?;
            self.insert(&library, Entry::File { content, mode: 0o755 });
        }
        let content = fs::read(source).with_context(|| source.display().to_string())?;
        self.file(path, content, 0o755);
        Ok(())
    }

    pub fn file(&mut self, path: &str, content: Vec<u8>, mode: u32) {
        self.insert(Path::new(path), Entry::File { content, mode });
    }

    pub fn link(&mut self, path: &str, to: &str) {
        self.insert(Path::new(path), Entry::Link { to: to.into() });
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        let inside: PathBuf =
            path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        for parent in inside.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
            self.entries.entry(parent.into()).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(inside, entry);
    }

    /// Writes the archive.
    pub fn write(&self, archive: &Path) -> anyhow::Result<Built> {
        let layer = self.layer()?;
        let config = json_bytes(&json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                "User": format!("{USER}:{USER}"),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        }));
        let tag = self.tag.clone().unwrap_or_else(|| hash(&config)[..TAG_DIGITS].to_owned());
        let name = format!("{}:{tag}", self.repository);
        let manifest = json_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &config),
            "layers": [descriptor(LAYER_TYPE, &layer)],
        }));
        let mut described = descriptor(MANIFEST_TYPE, &manifest);
        described["annotations"] =
            json!({NAME_ANNOTATION: name, "org.opencontainers.image.ref.name": tag});
        let index = json_bytes(&json!({"schemaVersion": 2, "manifests": [described]}));
        let docker = json_bytes(&json!([{
            "Config": blob(&config), "RepoTags": [name], "Layers": [blob(&layer)],
        }]));

        if let Some(directory) = archive.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut tar = Builder::new(BufWriter::new(File::create(archive)?));
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        append_file(&mut tar, Path::new("oci-layout"), layout, 0o644)?;
        append_file(&mut tar, Path::new("index.json"), &index, 0o644)?;
        append_file(&mut tar, Path::new("manifest.json"), &docker, 0o644)?;
        for content in [&config, &manifest, &layer] {
            append_file(&mut tar, Path::new(&blob(content)), content, 0o644)?;
        }
        tar.into_inner()?.into_inner()?;
        Ok(Built { name, digest: digest(&manifest), id: digest(&config) })
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => {
                    let mut header = header(EntryType::Directory, 0, *mode);
                    tar.append_data(&mut header, path, io::empty())?;
                }
                Entry::File { content, mode } => append_file(&mut tar, path, content, *mode)?,
                Entry::Link { to } => {
                    tar.append_link(&mut header(EntryType::Symlink, 0, 0o777), path, to)?;
                }
            }
        }
        tar.into_inner()
    }
}

/// The image that an archive of this module holds.
pub fn read(archive: &Path) -> anyhow::Result<Built> {
    let read = |wanted: &str| -> anyhow::Result<Value> {
        let mut archive = Archive::new(File::open(archive)?);
        for entry in archive.entries()? {
            let mut entry = entry?;
            if entry.path()? == Path::new(wanted) {
                let mut text = String::new();
                entry.read_to_string(&mut text)?;
                return Ok(serde_json::from_str(&text)?);
            }
        }
        bail!("no {wanted} in it")
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let index = read("index.json").with_context(|| archive.display().to_string())?;
    let manifest = &index["manifests"][0];
    let name = text(&manifest["annotations"][NAME_ANNOTATION]).context("an image without name")?;
    let digest = text(&manifest["digest"]).context("an image without digest")?;
    let manifest = read(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")))?;
    let id = text(&manifest["config"]["digest"]).context("an image without configuration")?;
    Ok(Built { name, digest, id })
}

/// Libraries that the loader would take for a program; none of a static one.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("ldd")?;
    let told = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    if told.contains("not a dynamic executable") || told.contains("statically linked") {
        return Ok(Vec::new());
    }
    ensure!(output.status.success(), "ldd {}: {told}", program.display());
    ensure!(!told.contains("not found"), "{} misses a library: {told}", program.display());
    // `name => path (address)`, or the loader's own path alone; the kernel's has no path.
    let paths = told.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

fn architecture() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no name of {other} among image architectures is known here"),
    }
}

fn header(kind: EntryType, size: usize, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append_file<W: io::Write>(
    tar: &mut Builder<W>,
    path: &Path,
    content: &[u8],
    mode: u32,
) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Regular, content.len(), mode), path, content)
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn blob(content: &[u8]) -> String {
    format!("blobs/sha256/{}", hash(content))
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hash(content))
}

/// SHA-256, in hexadecimal digits.
pub(crate) fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Space;

    fn busybox(link: &str) -> Image {
        let mut image = Image::new("busybox", &["/bin/busybox"]);
        image.program(Path::new("/bin/sh"), "/bin/busybox").unwrap();
        image.link(link, "busybox");
        image
    }

    #[test]
    fn the_same_content_is_the_same_archive() {
        let space = Space::new();
        let [first, again, other] =
            ["first.tar", "again.tar", "other.tar"].map(|name| space.path().join(name));
        let built = busybox("/bin/sleep").write(&first).unwrap();
        assert_eq!(busybox("/bin/sleep").write(&again).unwrap(), built);
        assert_eq!(fs::read(&first).unwrap(), fs::read(&again).unwrap());
        assert_eq!(read(&first).unwrap(), built);
        let changed = busybox("/bin/sh").write(&other).unwrap();
        assert_ne!(changed.name, built.name);
        assert_ne!(changed.digest, built.digest);
    }

    #[test]
    fn a_dynamic_program_brings_its_loader_and_libraries() {
        let image = busybox("/bin/sleep");
        let paths: Vec<_> = image.entries.keys().map(|path| path.display().to_string()).collect();
        for part in ["ld-linux", "libc.so"] {
            assert!(paths.iter().any(|path| path.contains(part)), "{part}: {paths:?}");
        }
        assert!(matches!(image.entries[Path::new("bin")], Entry::Directory { .. }));
    }
}
