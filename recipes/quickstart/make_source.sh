#!/usr/bin/env bash
# Makes the checkpoint that `scalenet quickstart` expands, with scalenet's own commands: a small ViT,
# trained from random weights on 20,000 images of Fashion-MNIST (MIT licence, Zalando SE).
#
#     recipes/quickstart/make_source.sh FASHION_MNIST OUT
#
# FASHION_MNIST holds train/0..9/*.png and val/0..9/*.png. OUT becomes a folder as timm publishes
# them: config.json, model.safetensors. Seed 0. The shipped file was made with OMP_NUM_THREADS=1, and
# has a top-1 of 81.75 % on the 10,000 test images.
set -euo pipefail
data=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/plan.yaml" <<'PLAN'
version: 1
mapping: interpolate
factor: 1                # no new blocks and no adapter: the model itself, all of it trained
adapter: {type: none}
train: all
drop_path: 0.05
PLAN
arguments=()
for argument in img_size=28 patch_size=4 embed_dim=64 depth=6 num_heads=4 num_classes=10 \
    input_size=3,28,28 mean=0.286,0.286,0.286 std=0.353,0.353,0.353 crop_pct=1.0; do
    arguments+=(--model-kwargs "$argument")
done
scalenet expand timm:vit_tiny_patch16_224 --random-weights "${arguments[@]}" \
    --plan "$work/plan.yaml" -o "$work/start"
scalenet finetune "$work/start" --data "$data" -o "$work/run" \
    --recipe training/quickstart_source --limit-train 20000 --workers 1
# A bundle without new blocks holds its base under the keys that timm gave it.
mkdir -p "$out"
cp "$work/run/best/model.safetensors" "$out/"
cp "$here/fashion_mnist_vit/config.json" "$out/"
