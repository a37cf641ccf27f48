package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
)

const (
	// lockWait is how long a change waits for the lock of the file.
	lockWait = 30 * time.Second
	// lockPoll is the time between two attempts to take it.
	lockPoll = 50 * time.Millisecond
	// mostLinks is the most symbolic links that a path may lead through.
	mostLinks = 40
)

// KeysFile keeps batchd's own keys in a YAML file. It implements [batch.KeyStore]. The commands replace the
// file as a whole, so a reader never sees a half of it. Through a symbolic link they replace the file that it
// leads to. The new file has the owner, the group and the mode of the old one.
type KeysFile struct {
	// Path is the path of the file.
	Path string
}

var _ batch.KeyStore = (*KeysFile)(nil)

// Keys implements [batch.KeySource]. The version is the hash of the file.
func (f *KeysFile) Keys(_ context.Context, version string) ([]batch.Key, string, bool, error) {
	source, err := readKeys(f.Path)
	if err != nil {
		return nil, "", false, fmt.Errorf("read the keys: %w", err)
	}
	sum := sha256.Sum256(source)
	now := hex.EncodeToString(sum[:])
	if now == version {
		return nil, now, false, nil
	}
	keys, err := parseKeys(f.Path, source)
	return keys, now, err == nil, err
}

// keysFileSetting is the setting with the path of the file.
const keysFileSetting = "auth.keys_file"

// Check returns whether keys can authenticate by the file now.
func (f *KeysFile) Check() batch.Check {
	check := batch.Check{Name: "keys_file", State: batch.CheckOK}
	source, err := readKeys(f.Path)
	var keys []batch.Key
	if err == nil && source != nil {
		keys, err = parseKeys(f.Path, source)
	}
	switch {
	case err != nil:
		check.State, check.Detail = batch.CheckFailed, fmt.Sprintf("%s: %s cannot be used, so all keys are refused until it is repaired; the log says what is wrong with it", keysFileSetting, f.Path)
	case source == nil:
		check.State, check.Detail = batch.CheckFailed, fmt.Sprintf("%s: %s does not exist, so all keys are refused: make one with batchd keys create, or correct the setting", keysFileSetting, f.Path)
	case len(keys) == 0:
		check.State, check.Detail = batch.CheckWarning, fmt.Sprintf("%s: %s has no keys: make one with batchd keys create", keysFileSetting, f.Path)
	default:
		check.Detail = fmt.Sprintf("%s: %s can be read", keysFileSetting, f.Path)
	}
	return check
}

// ListKeys implements [batch.KeyStore]. A file with a fault has no keys.
func (f *KeysFile) ListKeys(context.Context) ([]batch.Key, []batch.KeyFault, error) {
	keys, err := loadKeys(f.Path)
	return keys, nil, err
}

// RevokeKey implements [batch.KeyStore].
func (f *KeysFile) RevokeKey(ctx context.Context, name string, at time.Time) (unreadable, err error) {
	return nil, f.ChangeKey(ctx, name, func(key *batch.Key) (*batch.Key, error) {
		if key == nil {
			return nil, fmt.Errorf("key %s: %w", name, batch.ErrNoKey)
		}
		key.Revoke(at)
		return key, nil
	})
}

// Place implements [batch.KeyStore]: it is the path of the file that changes replace.
func (f *KeysFile) Place() string {
	if path, err := target(f.Path); err == nil {
		return path
	}
	return f.Path
}

// ChangeKey implements [batch.KeyStore]. A lock beside the file keeps changes at the same time apart.
func (f *KeysFile) ChangeKey(ctx context.Context, name string, change func(*batch.Key) (*batch.Key, error)) error {
	path, err := target(f.Path)
	if err != nil {
		return fmt.Errorf("find the file with the keys: %w", err)
	}
	unlock, err := lockKeys(ctx, path)
	if err != nil {
		return fmt.Errorf("lock the keys: %w", err)
	}
	defer unlock()
	keys, err := loadKeys(path)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(keys, func(k batch.Key) bool { return k.Name == name })
	var key *batch.Key
	if i >= 0 {
		key = &keys[i]
	}
	if key, err = change(key); err != nil {
		return err
	}
	if i < 0 {
		keys = append(keys, *key)
	} else {
		keys[i] = *key
	}
	if err := replaceKeys(path, keysText(keys)); err != nil {
		return fmt.Errorf("write the keys: %w", err)
	}
	return nil
}

// target follows symbolic links to the file that a path names, which need not exist.
func target(path string) (string, error) {
	for range mostLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, filepath.Base(path))
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink == 0 {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		next, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(dir, next)
		}
		path = next
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

// readKeys returns the content of a file. A file that does not exist is empty. A file that was replaced where it
// comes from is an error: that happens if it is mounted alone, and nothing would ever change it.
func readKeys(path string) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	source, err := setting.ReadAll(file, mostFile)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if isReplaced(path, info) {
		return nil, fmt.Errorf("%s was replaced, and this process sees the old file only: mount the directory with the file, not the file alone", path)
	}
	return source, nil
}

// isReplaced reports whether a file that was opened has no name any more, although its path still leads to it.
func isReplaced(path string, opened fs.FileInfo) bool {
	if links(opened) > 0 {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(now, opened)
}

// links returns how many names a file has.
func links(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink) //nolint:unconvert,nolintlint // its type differs between systems
	}
	return 1
}

// loadKeys reads the keys of a file.
func loadKeys(path string) ([]batch.Key, error) {
	source, err := readKeys(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", path, setting.WithoutPath(err))
	case source == nil:
		return nil, nil
	}
	return parseKeys(path, source)
}

// lockKeys takes the lock of a file. Only the user who owns the file, and root, may take it.
func lockKeys(ctx context.Context, path string) (unlock func(), err error) {
	name := path + ".lock"
	lock, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) //nolint:gosec // the operator names the file
	if errors.Is(err, fs.ErrExist) {
		lock, err = os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW, 0) //nolint:gosec // the operator names the file
	} else if err == nil {
		if info, statErr := os.Stat(path); statErr == nil {
			_ = keepOwner(lock, info) // who cannot give it away keeps others from changing the file, not from reading it
		}
	}
	if err != nil {
		return nil, err
	}
	over := time.Now().Add(lockWait)
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = lock.Close() }, nil // which ends the lock
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(over) {
			return nil, errors.Join(fmt.Errorf("%s: %w: another command holds it, or its file system has no locks", name, err), lock.Close())
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), lock.Close())
		}
	}
}

// keepOwner gives a new file to the owner and the group of an old one.
func keepOwner(file *os.File, old fs.FileInfo) error {
	want, ok := old.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if have, ok := info.Sys().(*syscall.Stat_t); ok && have.Uid == want.Uid && have.Gid == want.Gid {
		return nil
	}
	if err := file.Chown(int(want.Uid), int(want.Gid)); err != nil {
		return fmt.Errorf("the file belongs to user %d and group %d, and the new one cannot: run the command as that user, or as root: %w", want.Uid, want.Gid, setting.WithoutPath(err))
	}
	return nil
}

// replaceKeys replaces a file by one with another content.
func replaceKeys(path, text string) (err error) {
	next, err := os.CreateTemp(filepath.Dir(path), ".keys-*") // only its owner may read it
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next.Name()) // the first error says more
		}
	}()
	err = fill(next, path, text)
	if err = errors.Join(err, next.Close()); err != nil {
		return err
	}
	if err = os.Rename(next.Name(), path); errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%s is mounted alone, so it cannot be replaced: mount the directory with the file, or run the command where the file comes from: %w", path, setting.WithoutPath(err))
	}
	return err
}

// fill gives a new file its owner, mode and content.
func fill(next *os.File, path, text string) error {
	old, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !old.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case links(old) > 1:
		return fmt.Errorf("%s has %d names (hard links), and only one of them would get the change: leave one", path, links(old))
	default:
		if err := keepOwner(next, old); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := next.Chmod(old.Mode().Perm()); err != nil {
			return err
		}
	}
	if _, err := next.WriteString(text); err != nil {
		return err
	}
	return next.Sync()
}
