package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var _ runtimeapi.ImageServiceServer = (*Store)(nil)

// ListImages lists all images, or the one that the filter names.
func (s *Store) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	list, err := s.list(req.GetFilter())
	return &runtimeapi.ListImagesResponse{Images: list}, err
}

// streamed is how many images one message of StreamImages holds: an image with
// dozens of names stays far below gRPC's 4 MiB.
const streamed = 100

// StreamImages is ListImages without the bound of a message.
func (s *Store) StreamImages(req *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	list, err := s.list(req.GetFilter())
	if err != nil {
		return err
	}
	for part := range slices.Chunk(list, streamed) {
		if err := stream.Send(&runtimeapi.StreamImagesResponse{Images: part}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) list(filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if err := s.running(); err != nil {
		return nil, unavailable(err)
	}
	images := s.all()
	if want := filter.GetImage().GetImage(); want != "" {
		r, err := find(images, want)
		if errors.Is(err, ErrNoImage) {
			return nil, nil
		}
		if err != nil {
			return nil, unavailable(err)
		}
		return []*runtimeapi.Image{r.cri()}, nil
	}
	var out []*runtimeapi.Image
	for _, id := range slices.Sorted(maps.Keys(images)) {
		out = append(out, images[id].cri())
	}
	return out, nil
}

// unavailable is an error of our own as the CRI has it.
func unavailable(err error) error {
	switch {
	case errors.Is(err, errStopped):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, errAmbiguous):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ErrNoImage):
		return status.Error(codes.NotFound, "not found: "+err.Error())
	}
	return err
}

func (r record) cri() *runtimeapi.Image {
	im := &runtimeapi.Image{
		Id: r.ID, RepoTags: r.Tags, RepoDigests: r.Digests, Size: uint64(r.Size), Pinned: r.Pinned, Spec: &runtimeapi.ImageSpec{Image: r.ID},
	}
	// A number is a UID, all else a name; the group is the runtime's business.
	user, _, _ := strings.Cut(r.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		im.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		im.Username = user
	}
	return im
}

// ImageStatus tells of one image; of one that is not here it tells nothing.
func (s *Store) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	r, err := s.find(req.GetImage().GetImage())
	if errors.Is(err, ErrNoImage) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	res := &runtimeapi.ImageStatusResponse{Image: r.cri()}
	if !req.GetVerbose() {
		return res, nil
	}
	config, err := s.config(r.ID)
	if err != nil {
		return nil, err
	}
	info, err := json.Marshal(map[string]any{"chainID": Image{layers: r.Layers}.ChainID(), "imageSpec": json.RawMessage(config)})
	if err != nil {
		return nil, err
	}
	res.Info = map[string]string{"info": string(info)}
	return res, nil
}

// PullImage fetches an image and answers its ID.
func (s *Store) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if err := s.running(); err != nil {
		return nil, unavailable(err)
	}
	ref := req.GetImage().GetImage()
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "image name %q: %v", ref, err)
	}
	if h := req.GetImage().GetRuntimeHandler(); h != "" && !slices.Contains(s.cfg.Handlers, h) {
		return nil, status.Errorf(codes.InvalidArgument, "no runtime handler %q is configured", h)
	}
	auth, err := credentialsOf(req.GetAuth())
	if err != nil {
		return nil, err
	}
	key := pullKey{name: named.String(), auth: auth}
	id, _, err := s.pulls.do(ctx, key, func(ctx context.Context) (string, error) { return s.pull(ctx, key, named) })
	if err != nil {
		return nil, public(named.String(), err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}

// RemoveImage removes an image by all its names, pinned or not: whoever
// collects garbage heeds the pin, whoever asks by name is obeyed.
func (s *Store) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if err := s.Remove(req.GetImage().GetImage()); err != nil && !errors.Is(err, ErrNoImage) {
		return nil, unavailable(err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo tells what the layers take.
func (s *Store) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	if err := s.running(); err != nil {
		return nil, unavailable(err)
	}
	var bytes, inodes int64
	s.mu.Lock()
	for _, l := range s.layers {
		bytes += l.Bytes
		inodes += l.Inodes
	}
	s.mu.Unlock()
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: s.cfg.Root},
		UsedBytes:  &runtimeapi.UInt64Value{Value: uint64(bytes)},
		InodesUsed: &runtimeapi.UInt64Value{Value: uint64(inodes)},
	}}}, nil
}
