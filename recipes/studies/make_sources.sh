#!/usr/bin/env bash
# Makes the checkpoints that the small studies start from, with scalenet's own commands: a ViT and a
# Swin, each trained from random weights on 20,000 images of Fashion-MNIST (MIT licence, Zalando SE).
#
#     recipes/studies/make_sources.sh FASHION_MNIST OUT
#
# FASHION_MNIST holds train/0..9/*.png and val/0..9/*.png. OUT becomes a folder with vit.safetensors
# and swin.safetensors, and vit/ and swin/, the runs with their curves. Seed 0. The published studies
# were made with OMP_NUM_THREADS=1; both took about a quarter of an hour side by side.
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/plan.yaml" <<'PLAN'
version: 1
mapping: interpolate
factor: 1                # no new blocks and no adapter: the model itself, all of it trained
adapter: {type: none}
train: all
drop_path: 0
PLAN

# make NAME ARCHITECTURE ARGUMENT...
make() {
    local name=$1 architecture=$2 arguments=()
    for argument in "${@:3}" num_classes=10 mean=0.286,0.286,0.286 std=0.353,0.353,0.353 \
        crop_pct=1.0; do
        arguments+=(--model-kwargs "$argument")
    done
    scalenet expand "timm:$architecture" --random-weights "${arguments[@]}" \
        --plan "$work/plan.yaml" -o "$work/$name"
    scalenet finetune "$work/$name" --data "$data" -o "$out/$name" \
        --recipe training/fashion_mnist_source --limit-train 20000 --eval-epochs 2 --workers 0
    # A bundle without new blocks holds its base under the keys that timm gave it.
    cp "$out/$name/last/model.safetensors" "$out/$name.safetensors"
}

make vit vit_tiny_patch16_224 img_size=28 patch_size=7 embed_dim=64 depth=4 num_heads=4 \
    input_size=3,28,28 &
vit=$!
make swin swin_tiny_patch4_window7_224 img_size=32 window_size=4 embed_dim=32 depths=2,4 \
    num_heads=2,4 input_size=3,32,32 &
# wait without a name would hide that one of them failed.
wait "$!"
wait "$vit"
