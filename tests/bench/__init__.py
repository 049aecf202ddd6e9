"""The course's attacks beside other people's, on the same networks, images and processor: `make bench`.

- `networks`: what is attacked; `contestants`: who attacks; `measure`: one attack on one network, timed and kept
- `table`: intervals and Markdown; `__main__`: the command line
"""
