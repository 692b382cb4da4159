// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// podLogs is where kubelet has the logs of kube-system's containers.
const podLogs = "/var/log/pods/kube-system_*/*/*.log"

// PodLogs returns the ends of the logs of the cluster's own containers, those that
// were written last: at most size bytes. What cannot be read is left out.
func PodLogs(root string, size int) []byte {
	files, err := filepath.Glob(filepath.Join(root, podLogs))
	if err != nil || len(files) == 0 {
		return nil
	}
	modified := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.ModTime().UnixNano()
	}
	slices.SortFunc(files, func(a, b string) int { return int(min(1, max(-1, modified(b)-modified(a)))) })
	const most = 8
	files = files[:min(most, len(files))]
	var out bytes.Buffer
	for _, path := range files {
		rest, err := filepath.Rel(filepath.Join(root, "/var/log/pods"), path)
		if err != nil {
			continue
		}
		head := fmt.Sprintf("-- %s\n", rest)
		text, err := end(path, size/len(files)-len(head))
		if err == nil && len(text) > 0 {
			out.WriteString(head)
			out.Write(text)
		}
	}
	return out.Bytes()
}

// end is the end of a file: whole lines of at most size bytes together.
func end(path string, size int) ([]byte, error) {
	if size <= 0 {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	// One byte more tells a line that begins here from one that is cut.
	from := max(0, info.Size()-int64(size)-1)
	text, err := io.ReadAll(io.NewSectionReader(file, from, int64(size)+1))
	return lastLines(text, size), err
}
