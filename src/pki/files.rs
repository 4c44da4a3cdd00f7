use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;

use super::PkiError;

/// A file to be written.
pub(super) struct NewFile {
    pub(super) path: PathBuf,
    pub(super) contents: String,
    /// A secret is for its owner only (mode 0600); anything else is for everyone to read (0644).
    pub(super) secret: bool,
}

/// Writes files that do not exist yet: all of them whole, or none. Each is first written under
/// another name in its folder and then linked to its own, since a link never replaces a file.
pub(super) fn write_new(files: &[NewFile]) -> Result<(), PkiError> {
    let mut drafts = Unfinished(Vec::new());
    for file in files {
        let draft = draft_path(&file.path);
        let unwritable = |source| PkiError::Unwritable { path: file.path.clone(), source };
        write_draft(&draft, file).map_err(unwritable)?;
        drafts.0.push(draft);
    }
    let mut placed = Unfinished(Vec::new());
    for (draft, file) in drafts.0.iter().zip(files) {
        fs::hard_link(draft, &file.path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => PkiError::Exists { path: file.path.clone() },
            _ => PkiError::Unwritable { path: file.path.clone(), source },
        })?;
        placed.0.push(file.path.clone());
    }
    placed.0.clear();
    Ok(())
}

/// Replaces files that are there, each at once: whoever opens one sees the old or the new one whole. Owners
/// and modes stay. Where the second can't be replaced, the first is put back.
pub(super) fn replace(files: &[NewFile]) -> Result<(), PkiError> {
    let mut drafts = Unfinished(Vec::new());
    let mut replaced = Vec::new();
    for file in files {
        let unwritable = |source| PkiError::Unwritable { path: file.path.clone(), source };
        // Where it is a link, the file behind it is replaced.
        let path = fs::canonicalize(&file.path).map_err(unwritable)?;
        let draft = draft_path(&path);
        write_draft(&draft, file).map_err(unwritable)?;
        drafts.0.push(draft.clone());
        take_after(&draft, &path).map_err(unwritable)?;
        replaced.push((draft, path));
    }
    let mut before = Unfinished(Vec::new());
    for (position, (draft, path)) in replaced.iter().enumerate() {
        let kept = draft.with_extension("old");
        let done = fs::hard_link(path, &kept).and_then(|()| {
            before.0.push(kept);
            fs::rename(draft, path)
        });
        if let Err(source) = done {
            for (old, (_, path)) in before.0.iter().zip(&replaced[..position]) {
                // Whoever hears of the failure can't do more about this one.
                let _ = fs::rename(old, path);
            }
            return Err(PkiError::Unwritable { path: path.clone(), source });
        }
    }
    drafts.0.clear();
    Ok(())
}

/// Gives a draft the owner and the mode of the file that it is to replace.
fn take_after(draft: &Path, path: &Path) -> io::Result<()> {
    let before = fs::metadata(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, chown};
        let own = fs::metadata(draft)?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            chown(draft, Some(before.uid()), Some(before.gid()))?;
        }
    }
    fs::set_permissions(draft, before.permissions())
}

/// Makes a folder that only its owner may enter, unless it is there.
pub(super) fn make_folder(path: &Path) -> Result<(), PkiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| PkiError::Unwritable { path: path.to_owned(), source })
}

/// Files that are removed again when something fails before they are wanted.
struct Unfinished(Vec<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        for path in &self.0 {
            // Whoever hears of the first failure can't do more about this one.
            let _ = fs::remove_file(path);
        }
    }
}

fn draft_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.new", process::id()))
}

fn write_draft(draft: &Path, file: &NewFile) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut output = options.open(draft)?;
    let written = output.write_all(file.contents.as_bytes()).and_then(|()| {
        #[cfg(unix)]
        if !file.secret {
            use std::os::unix::fs::PermissionsExt;
            output.set_permissions(fs::Permissions::from_mode(0o644))?;
        }
        output.sync_all()
    });
    if written.is_err() {
        let _ = fs::remove_file(draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, secret: bool) -> NewFile {
        NewFile { path, contents: "new".to_owned(), secret }
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("the folder is there");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("it is readable").file_name();
        let mut names =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect::<Vec<_>>();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_exists_is_kept_and_its_pair_is_not_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (key, certificate) = (folder.path().join("a.key"), folder.path().join("a.crt"));
        fs::write(&certificate, "old").expect("the folder is writable");

        let result = write_new(&[file(key, true), file(certificate.clone(), false)]);

        assert!(matches!(result, Err(PkiError::Exists { path }) if path == certificate));
        assert_eq!(names_in(folder.path()), ["a.crt"]);
        assert_eq!(fs::read_to_string(certificate).expect("it is readable"), "old");
    }

    #[cfg(unix)]
    #[test]
    fn secrets_are_for_their_owner_only_and_no_draft_remains() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (key, certificate) = (folder.path().join("a.key"), folder.path().join("a.crt"));

        write_new(&[file(key.clone(), true), file(certificate.clone(), false)]).expect("written");

        let mode = |path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(key), mode(certificate)), (0o600, 0o644));
        assert_eq!(names_in(folder.path()), ["a.crt", "a.key"]);
    }
}
