//! The archives that packages travel in: `.dpmod.zip`, and the gzipped tar files of registries.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{PackageIssue, PackageResult};
use crate::module::source::files_below;

/// Maximum size of a package's files together, in bytes.
pub const MAX_PACKAGE_BYTES: u64 = 256 * 1024 * 1024;
/// Maximum number of files of a package.
const MAX_PACKAGE_FILES: usize = 20_000;
/// The size of the blocks of tar files (POSIX.1-1988 ustar).
const TAR_BLOCK: usize = 512;

/// Writes a folder's files into a zip file, which replaces the one that is there.
pub fn write_zip(folder: &Path, target: &Path) -> PackageResult<()> {
    let temporary = target.with_extension(format!("zip.{}.tmp", std::process::id()));
    let written = pack_files(folder, &temporary).and_then(|()| fs::rename(&temporary, target));
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        vec![PackageIssue::file(target, &error)]
    })
}

fn pack_files(folder: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut archive = ZipWriter::new(File::create(target)?);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).unix_permissions(0o644);
    for path in files_below(folder)? {
        let name: Vec<String> = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        archive.start_file(name.join("/"), options).map_err(io::Error::other)?;
        archive.write_all(&fs::read(folder.join(&path))?)?;
    }
    archive.finish().map_err(io::Error::other)?.sync_all()
}

/// Unpacks a zip file into a folder. Paths that leave the folder, links and files that are too large are refused.
pub fn read_zip(bundle: &Path, target: &Path) -> PackageResult<()> {
    let refuse = |message: String| vec![PackageIssue::layout(format!("{}: {message}", bundle.display()))];
    let file = File::open(bundle).map_err(|error| vec![PackageIssue::file(bundle, &error)])?;
    let mut archive = ZipArchive::new(file).map_err(|error| refuse(format!("not a zip file: {error}")))?;
    if archive.len() > MAX_PACKAGE_FILES {
        return Err(refuse(format!("more than {MAX_PACKAGE_FILES} files")));
    }
    let mut left = MAX_PACKAGE_BYTES;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| refuse(format!("entry {index}: {error}")))?;
        if entry.is_dir() {
            continue;
        }
        let Some(path) = entry.enclosed_name().filter(|_| !entry.is_symlink()).and_then(|path| inside(&path)) else {
            return Err(refuse(format!("entry {index} is a link, or its path leaves the package")));
        };
        left = write_entry(&mut entry, &target.join(path), left).map_err(|error| refuse(format!("entry {index}: {error}")))?;
    }
    Ok(())
}

/// Unpacks a gzipped tar file into a folder; only what is below `package/`, without that name.
pub fn read_tarball(bytes: &[u8], target: &Path) -> PackageResult<()> {
    unpack_tarball(bytes, target).map_err(|error| vec![PackageIssue::layout(format!("the registry's tarball: {error}"))])
}

fn unpack_tarball(bytes: &[u8], target: &Path) -> io::Result<()> {
    let mut input = GzDecoder::new(bytes);
    let mut left = MAX_PACKAGE_BYTES;
    let mut long_name = None;
    for _ in 0..MAX_PACKAGE_FILES {
        let mut header = [0; TAR_BLOCK];
        input.read_exact(&mut header)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let size = octal(&header, 124, 12)?;
        let padding = (TAR_BLOCK as u64 - size % TAR_BLOCK as u64) % TAR_BLOCK as u64;
        let name = long_name.take().unwrap_or_else(|| header_name(&header));
        let mut contents = (&mut input).take(size);
        match header.get(156) {
            Some(b'0' | 0) => {
                let path = Path::new(&name).strip_prefix("package").ok().and_then(inside);
                match path {
                    Some(path) => left = write_entry(&mut contents, &target.join(path), left)?,
                    None => return Err(io::Error::other(format!("`{name}` is not below package/"))),
                }
            }
            // An extended header of POSIX.1-2001 may hold the next file's path.
            Some(b'x') => {
                let mut text = String::new();
                (&mut contents).take(64 * 1024).read_to_string(&mut text)?;
                long_name = text.lines().find_map(|line| line.split_once(" path=").map(|(_, path)| path.to_owned()));
            }
            Some(b'5' | b'g') => {}
            _ => return Err(io::Error::other(format!("`{name}` is a link or a device"))),
        }
        let rest = contents.limit();
        io::copy(&mut (&mut input).take(rest + padding), &mut io::sink())?;
    }
    Err(io::Error::other(format!("more than {MAX_PACKAGE_FILES} files")))
}

/// The path of a tar header: prefix and name.
fn header_name(header: &[u8; TAR_BLOCK]) -> String {
    let text = |from: usize, length: usize| {
        let bytes = header.get(from..from + length).unwrap_or_default();
        String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
    };
    let (name, prefix) = (text(0, 100), text(345, 155));
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

fn octal(header: &[u8; TAR_BLOCK], from: usize, length: usize) -> io::Result<u64> {
    let bytes = header.get(from..from + length).unwrap_or_default();
    let text = String::from_utf8_lossy(bytes);
    let digits = text.trim_matches(|letter: char| letter == '\0' || letter == ' ');
    u64::from_str_radix(digits, 8).map_err(|_| io::Error::other("a header without a size"))
}

/// A path of plain names only.
fn inside(path: &Path) -> Option<PathBuf> {
    let is_plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    (is_plain && !path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// Writes one file and returns how many bytes the package may still have.
fn write_entry(input: &mut impl Read, path: &Path, left: u64) -> io::Result<u64> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut output = File::create(path)?;
    let written = io::copy(&mut input.take(left + 1), &mut output)?;
    left.checked_sub(written).ok_or_else(|| io::Error::other(format!("the files are larger than {MAX_PACKAGE_BYTES} bytes together")))
}
