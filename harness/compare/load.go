package compare

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"barrage/harness/report"
)

// resultFile is a run's result in its folder.
const resultFile = "run.json"

// Load reads the runs that path names: a run.json, a folder with one, a folder of such
// folders, or several of these, separated by commas.
func Load(path string) (Side, error) {
	side := Side{Name: path}
	for part := range strings.SplitSeq(path, ",") {
		files, err := find(part)
		if err != nil {
			return side, err
		}
		for _, f := range files {
			r, err := report.ReadJSON(f)
			if err != nil {
				return side, err
			}
			side.Runs = append(side.Runs, r)
		}
	}
	return side, nil
}

// find returns the results at or below path, in the order of their names.
func find(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("find runs: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	if own := filepath.Join(path, resultFile); exists(own) {
		return []string{own}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() == resultFile {
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find runs: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("find runs: there is no %s in %s or below it", resultFile, path)
	}
	slices.Sort(files)
	return files, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
