//! Compiles every .proto file below `proto/` without protoc.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    collect(&root.join("shoal"), &mut files)?;
    files.sort();
    println!("cargo:rerun-if-changed={}", root.join("shoal").display());
    let descriptors = protox::compile(&files, [&root])?;
    tonic_prost_build::configure().bytes(".").include_file("shoal.rs").compile_fds(descriptors)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
