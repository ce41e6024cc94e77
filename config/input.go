package config

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// File is the text of a configuration file, wherever it comes from.
type File struct {
	// Name stands in errors.
	Name string `json:"name"`
	Data []byte `json:"data"`
	// Dir is the folder that ${file:PATH} starts from. Default: that of the name.
	Dir string `json:"dir,omitempty"`
}

func (f File) dir() string { return cmp.Or(f.Dir, filepath.Dir(f.Name)) }

// Input is the text of a whole configuration: files that are merged, those of teams by the name of the team, and objects
// from outside.
type Input struct {
	Files []File            `json:"files"`
	Teams map[string][]File `json:"teams,omitempty"`
	// Objects are what sources outside tell, by the name that stands in errors.
	Objects map[string]Object `json:"objects,omitempty"`
}

// teamsDir is where the files of teams stand, below the directory of the configuration.
const teamsDir = "teams"

// ReadInput reads a file, or the *.yaml files of a directory and of teams/NAME below it. What could be read is returned
// beside the errors.
func ReadInput(path string) (in Input, errs Errors) {
	info, err := os.Stat(path)
	if err != nil {
		return in, unread(path, err)
	}
	if !info.IsDir() {
		in.Files, errs = readFiles([]string{path})
		return in, errs
	}
	names, errs := yamlFiles(path)
	if len(names) == 0 && len(errs) == 0 {
		errs = Errors{{Pos: Position{File: path}, Message: "no *.yaml file in this directory"}}
	}
	files, unreadable := readFiles(names)
	in.Files = files
	errs = append(errs, unreadable...)
	entries, err := os.ReadDir(filepath.Join(path, teamsDir))
	if err != nil && !os.IsNotExist(err) {
		return in, append(errs, unread(filepath.Join(path, teamsDir), err)...)
	}
	for _, entry := range entries {
		dir := filepath.Join(path, teamsDir, entry.Name())
		if info, err := os.Stat(dir); err != nil || !info.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		names, more := yamlFiles(dir)
		files, unreadable := readFiles(names)
		if errs = append(errs, append(more, unreadable...)...); len(files) > 0 || len(unreadable) > 0 {
			if in.Teams == nil {
				in.Teams = make(map[string][]File)
			}
			in.Teams[entry.Name()] = files
		}
	}
	return in, errs
}

func readFiles(names []string) (files []File, errs Errors) {
	for _, name := range names {
		data, err := readFile(name, maxFileSize)
		if err != nil {
			errs = append(errs, unread(name, err)...)
			continue
		}
		files = append(files, File{Name: name, Data: data})
	}
	return files, errs
}

// Load returns the configuration that the files make, or every mistake in them, as Errors.
func (in Input) Load(o Options) (*Config, error) {
	l := newLoader(o)
	for _, f := range in.Files {
		l.files[f.Name] = true
		l.add(f.Name, f.dir(), f.Data)
	}
	l.teams(in.Teams)
	l.told = in.Objects
	return l.finish()
}

// TeamOf names the team that a file belongs to, "" for none: whose mistake one in the file is.
func (in Input) TeamOf(file string) string {
	for team, files := range in.Teams {
		if slices.ContainsFunc(files, func(f File) bool { return f.Name == file }) {
			return team
		}
	}
	// A file that could not be read is not among them.
	if dir := filepath.Dir(file); filepath.Base(filepath.Dir(dir)) == teamsDir {
		if _, ok := in.Teams[filepath.Base(dir)]; ok {
			return filepath.Base(dir)
		}
	}
	return ""
}
