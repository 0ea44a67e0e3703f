//! Writing the startup configuration: the file is the old or the new one, whole, whatever happens in between.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

/// The mode of a file that was not there.
const MODE: u32 = 0o644;

/// Writes `text` to `path` by way of a file beside it. Mode and owner stay as they are; a symbolic link stays one.
pub(crate) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let found = match fs::metadata(&target) {
        Ok(found) if !found.is_file() => return Err(io::Error::other("it is not a regular file")),
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let directory = target.parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let (file, beside) = create_beside(&target, directory)?;
    let written = fill(file, text, found.as_ref()).and_then(|()| fs::rename(&beside, &target));
    if let Err(error) = written {
        // What could not be finished is of no use; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    // The name is on disk only when its directory is.
    File::open(directory)?.sync_all()
}

fn create_beside(target: &Path, directory: &Path) -> io::Result<(File, PathBuf)> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let beside = directory.join(format!(".{name}.{}", std::process::id()));
    // One left by an earlier process of the same number.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    Ok((file, beside))
}

fn fill(mut file: File, text: &str, found: Option<&fs::Metadata>) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    if let Some(found) = found {
        // Without the right to it the file is the daemon's own, as a new one is.
        let _ = fchown(&file, Some(found.uid()), Some(found.gid()));
    }
    let mode = found.map_or(MODE, |found| found.mode() & 0o777);
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mcr.toml");
        write_whole(&path, "one").expect("a new file");
        assert_eq!((fs::read_to_string(&path).expect("readable").as_str(), mode(&path)), ("one", MODE));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
        let before = fs::metadata(&path).expect("it is there").ino();
        write_whole(&path, "two").expect("a file again");
        assert_eq!((fs::read_to_string(&path).expect("readable").as_str(), mode(&path)), ("two", 0o600));
        assert_ne!(fs::metadata(&path).expect("it is there").ino(), before, "readers of the old one keep it");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_symbolic_link_stays_and_what_it_points_to_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, "one").expect("writable");
        std::os::unix::fs::symlink(&real, &link).expect("possible");
        write_whole(&link, "two").expect("possible");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_to_string(&real).expect("readable"), "two");
    }

    #[test]
    fn what_cannot_be_written_is_left_as_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(write_whole(directory.path(), "text").is_err(), "a directory");
        assert!(write_whole(&directory.path().join("none/mcr.toml"), "text").is_err(), "no directory");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
    }
}
