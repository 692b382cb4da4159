// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/services/api/diskmapper"
	"github.com/constellation-os/constellation/services/diskmapper/client"
)

// patience bounds one request.
const patience = 3 * time.Minute

// Serve does what comes on the port until it ends.
func Serve(ctx context.Context, port io.ReadWriter) error {
	decoder, encoder := json.NewDecoder(port), json.NewEncoder(port)
	for {
		var request Request
		if err := decoder.Decode(&request); err != nil {
			return fmt.Errorf("await a request: %w", err)
		}
		response, err := request.do(ctx)
		if err != nil {
			response.Error = err.Error()
		}
		if err := encoder.Encode(response); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

func (r *Request) do(ctx context.Context) (response Response, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch {
	case len(r.Run) > 0:
		response.Output, err = exec.CommandContext(ctx, r.Run[0], r.Run[1:]...).CombinedOutput()
	case r.Read != "":
		response.Output, err = os.ReadFile(r.Read)
	case r.List != "":
		var entries []os.DirEntry
		entries, err = os.ReadDir(r.List)
		for _, entry := range entries {
			response.Entries = append(response.Entries, entry.Name())
		}
	case r.Write != "":
		err = writeFile(r.Write, r.Content)
	case r.Make != "":
		err = os.Mkdir(r.Make, 0o755)
	case r.Disk != nil:
		response.Disk, err = r.Disk.do(ctx)
	default:
		err = errors.New("the request is empty")
	}
	return response, err
}

// writeFile returns when the content is on the disk.
func writeFile(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

func (c *DiskCall) do(ctx context.Context) (*DiskResult, error) {
	conn, err := client.Dial(client.Socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	result := &DiskResult{Known: c.Known}
	if err := c.call(ctx, conn, result); err != nil {
		if problem := client.ProblemOf(err); problem != nil {
			result.Reason, result.HeaderReason = problem.Reason.String(), problem.HeaderReason
		}
		return result, err
	}
	return result, nil
}

func (c *DiskCall) call(ctx context.Context, conn *grpc.ClientConn, result *DiskResult) error {
	api := diskmapper.NewDiskMapperClient(conn)
	opened := func(o *diskmapper.Opened) {
		result.UUID, result.Device, result.Size = o.GetUuid(), o.GetDevice(), o.GetSize()
	}
	switch c.Method {
	case "Inspect":
		in, err := api.Inspect(ctx, &diskmapper.InspectRequest{})
		result.Kind, result.UUID, result.Size = in.GetKind().String(), in.GetUuid(), in.GetSize()
		return err
	case "Open":
		var format *diskmapper.Format
		if c.Format != "" {
			format = &diskmapper.Format{Uuid: c.Format, Take: c.Take}
		}
		witness := disk.Unwitnessed()
		if c.Known != nil {
			witness = cluster{c.Known}
		}
		o, err := client.Open(ctx, conn, c.Key, format, witness)
		opened(o)
		return err
	case "Rekey":
		_, err := api.Rekey(ctx, &diskmapper.RekeyRequest{OldKey: c.Key, NewKey: c.NewKey})
		return err
	case "Grow":
		_, err := api.Grow(ctx, &diskmapper.GrowRequest{})
		return err
	case "Status":
		status, err := api.Status(ctx, &diskmapper.StatusRequest{})
		opened(status.GetOpen())
		return err
	}
	return fmt.Errorf("the diskmapper has no method %q", c.Method)
}

// cluster remembers the generation of the disk, for as long as a call takes.
type cluster struct{ known *disk.Generation }

// Advance implements [disk.Witness].
func (c cluster) Advance(_ context.Context, uuid string, from, to disk.Generation) (err error) {
	*c.known, err = disk.Judge(uuid, *c.known, from, to)
	return err
}
