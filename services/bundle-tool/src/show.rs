use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pitstop_bundle::Description;
use pitstop_bundle_io::{BundleInfo, BundleReader};
use serde::Serialize;

use crate::{Output, Trust};

#[derive(Debug, clap::Args)]
pub struct InfoArguments {
    #[command(flatten)]
    trust: Trust,
    /// The bundle.
    bundle: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct VerifyArguments {
    #[command(flatten)]
    trust: Trust,
    /// The bundle.
    bundle: PathBuf,
}

/// What `info --json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    bundle: &'a Path,
    length: u64,
    compatible: &'a str,
    version: Option<&'a str>,
    kind: Option<pitstop_bundle::Kind>,
    hardware: Option<&'a str>,
    release_counter: Option<u64>,
    manifest_hash: String,
    verity_hash: String,
    signer: &'a pitstop_bundle_io::SignerInfo,
    files: Vec<FileShown<'a>>,
    images: &'a std::collections::BTreeMap<String, pitstop_bundle::manifest::Image>,
    description: Option<Description>,
    /// Only `verify` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_verified: Option<bool>,
}

#[derive(Serialize)]
struct FileShown<'a> {
    name: &'a str,
    length: u64,
}

pub(crate) fn info(arguments: &InfoArguments, output: Output) -> anyhow::Result<()> {
    let reader = open(&arguments.bundle, &arguments.trust)?;
    print(&arguments.bundle, &reader, None, output)
}

pub(crate) fn verify(arguments: &VerifyArguments, output: Output) -> anyhow::Result<()> {
    let reader = open(&arguments.bundle, &arguments.trust)?;
    let bar = output.bar(reader.info().verity.data_len(), "blocks");
    let checked = reader.check_blocks(|done| bar.set_position(done));
    bar.finish_and_clear();
    checked?;
    reader.check_files()?;
    print(&arguments.bundle, &reader, Some(true), output)
}

fn open(path: &Path, trust: &Trust) -> anyhow::Result<BundleReader> {
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(BundleReader::open(file, &trust.keyring()?, trust.now())?)
}

fn print(path: &Path, reader: &BundleReader, verified: Option<bool>, output: Output) -> anyhow::Result<()> {
    let info = reader.info();
    let description = match &info.meta {
        Some(meta) if meta.payload.is_some() => Some(reader.description()?),
        _ => None,
    };
    let shown = shown(path, info, description, verified);
    if output.json {
        println!("{}", serde_json::to_string(&shown)?);
        return Ok(());
    }
    println!("compatible     {}", shown.compatible);
    println!("version        {}", shown.version.unwrap_or("not said"));
    if let Some(meta) = &info.meta {
        println!("for            {:?} hardware {}, release counter {}", meta.kind, meta.hardware, meta.release_counter);
    }
    println!("manifest hash  {}", shown.manifest_hash);
    println!("hash tree      {} ({} blocks)", shown.verity_hash, info.verity.data_blocks());
    println!(
        "signed by      {} (issuer {}), valid until {}",
        info.signer.subject, info.signer.issuer, info.signer.not_after
    );
    for (name, length) in &info.files {
        println!("file           {name}, {length} bytes");
    }
    for segment in shown.description.iter().flat_map(|d| &d.segments) {
        println!("segment        {:#010x}, {} bytes, CRC-32 {:08x}", segment.address, segment.length, segment.crc32);
    }
    if verified.is_some() {
        println!("verified       signature, every block, every file");
    }
    Ok(())
}

fn shown<'a>(
    path: &'a Path,
    info: &'a BundleInfo,
    description: Option<Description>,
    content_verified: Option<bool>,
) -> Shown<'a> {
    let meta = info.meta.as_ref();
    Shown {
        bundle: path,
        length: info.layout.payload_len + info.layout.cms_len + pitstop_bundle::layout::TAIL_LEN,
        compatible: &info.manifest.update.compatible,
        version: info.manifest.update.version.as_deref(),
        kind: meta.map(|m| m.kind),
        hardware: meta.map(|m| m.hardware.as_str()),
        release_counter: meta.map(|m| m.release_counter.0),
        manifest_hash: info.manifest_hash.to_string(),
        verity_hash: info.verity.params().root.to_string(),
        signer: &info.signer,
        files: info.files.iter().map(|(name, length)| FileShown { name, length: *length }).collect(),
        images: &info.manifest.image,
        description,
        content_verified,
    }
}
